"""The spare worker processes: started, heard, given a model, ended.

Each has a socket of the broker's as its standard input. On it the process says once that it has imported everything
(SpareReady), and is told which worker of which model it becomes (Assignment), each a line of JSON. It ends by itself
when that socket closes, so none outlives its broker, however that ends.
"""

import logging
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from broker.events import SpareEnded, SpareSaid
from broker.workers.exit_causes import of_exit
from shared.protocol import Assignment, SpareReady

log = logging.getLogger(__name__)

_LONGEST = 1 << 10  # bytes of a line


@dataclass(slots=True)
class _Spare:
    process: "subprocess.Popen[bytes]"
    channel: socket.socket


class SpareProcesses:
    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)
        self._spares: dict[str, _Spare] = {}
        self._given: dict[str, socket.socket] = {}  # by the name of the worker that it becomes

    @property
    def names(self) -> list[str]:
        return list(self._spares)

    def start(self, spare: str, output: int) -> str | None:
        """Returns why it failed, if it did. ``output``: the file of its log."""
        ours, theirs = socket.socketpair()
        try:
            process = subprocess.Popen(
                [*self._command, "--spare", spare],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                start_new_session=True,
                close_fds=True,
            )
        except OSError as error:
            ours.close()
            return f"could not be started: {error.strerror}"
        finally:
            theirs.close()
        ours.setblocking(False)
        self._spares[spare] = _Spare(process, ours)
        return None

    def read(self) -> list[SpareSaid]:
        """Of those that have said since the last call that they are ready."""
        return [said for name, spare in self._spares.items() for said in _heard(name, spare.channel)]

    def give(self, spare: str, worker: str) -> "subprocess.Popen[bytes] | None":
        """Its process, which is the caller's from now on; None: it has ended. ``hand_over`` follows."""
        found = self._spares.get(spare)
        if found is None or found.process.poll() is not None:
            return None
        del self._spares[spare]
        self._given[worker] = found.channel
        return found.process

    def hand_over(self, worker: str, model: str) -> bool:
        """Whether it could be told."""
        line = Assignment(worker=worker, model=model).model_dump_json() + "\n"
        with self._given.pop(worker) as channel:
            try:
                return channel.send(line.encode()) == len(line.encode())
            except OSError as error:
                log.warning("%s cannot be told its model: %s", worker, error.strerror)
                return False

    def end(self, spare: str) -> None:
        if found := self._spares.get(spare):
            found.process.kill()

    def reap(self) -> list[SpareEnded]:
        ended = []
        for name, spare in list(self._spares.items()):
            if (code := spare.process.poll()) is not None:
                del self._spares[name]
                spare.channel.close()
                ended.append(SpareEnded(name, of_exit(code).how))
        return ended

    def close(self) -> None:
        for spare in self._spares.values():
            spare.process.kill()
            spare.process.wait()
            spare.channel.close()


def _heard(name: str, channel: socket.socket) -> list[SpareSaid]:
    """The line is short and sent at once, so it comes whole."""
    with suppress(OSError):
        try:
            if line := channel.recv(_LONGEST):
                return [SpareSaid(name, SpareReady.model_validate_json(line).footprint)]
        except ValueError:
            log.warning("%s said what is no message of a spare process", name)
    return []
