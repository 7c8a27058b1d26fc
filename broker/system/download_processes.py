"""The child processes that fetch models: started, read, stopped, reaped.

A child says how far it is in lines on a pipe. It ends by itself when the broker has gone and nobody reads them.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.events import DownloadEnded, DownloadSaid
from broker.workers.exit_causes import of_exit
from shared.protocol import DownloadReport

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "workers.hub")
_READ = 1 << 16
_LONGEST = 1 << 16  # bytes of a line


@dataclass(slots=True)
class _Child:
    process: "subprocess.Popen[bytes]"
    rest: bytes = field(default=b"", repr=False)  # the beginning of a line

    def lines(self) -> list[bytes]:
        assert self.process.stdout
        said = self.rest
        try:
            while chunk := os.read(self.process.stdout.fileno(), _READ):
                said += chunk
        except BlockingIOError:
            pass
        *lines, self.rest = said.split(b"\n")
        self.rest = self.rest[-_LONGEST:]
        return lines


class DownloadProcesses:
    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        """``command``: the model's name is its last argument."""
        self._command = tuple(command)
        self._children: dict[str, _Child] = {}

    def start(self, model: str) -> str | None:
        """Returns why it failed, if it did."""
        try:
            process = subprocess.Popen(
                [*self._command, model],
                bufsize=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return f"could not be started: {error.strerror}"
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        self._children[model] = _Child(process)
        return None

    def read(self) -> list[DownloadSaid]:
        """Of each child the last thing that it said."""
        return [said for model, child in self._children.items() for said in _last(model, child)]

    def reap(self) -> list[DownloadSaid | DownloadEnded]:
        ended: list[DownloadSaid | DownloadEnded] = []
        for model, child in list(self._children.items()):
            if (code := child.process.poll()) is not None:
                del self._children[model]
                ended += [*_last(model, child), DownloadEnded(model, of_exit(code).how)]
                assert child.process.stdout
                child.process.stdout.close()
        return ended

    def stop(self, model: str) -> None:
        if child := self._children.get(model):
            child.process.terminate()

    def close(self) -> None:
        for child in self._children.values():
            child.process.kill()
            child.process.wait()


def _last(model: str, child: _Child) -> list[DownloadSaid]:
    for line in reversed(child.lines()):
        try:
            return [DownloadSaid(model, DownloadReport.model_validate_json(line))]
        except ValueError:
            log.warning("the download of %s said what is no report", model)
    return []
