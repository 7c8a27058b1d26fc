"""A hosted server as its worker has it: a command, a port on loopback, and the processes that it consists of.

The process that this one starts is the keeper, which starts the server and surely ends it; see `keeper`.
"""

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import psutil

from shared.commands import for_others
from shared.model_table import HostingKeys
from shared.settings import PREFIX
from workers.footprint import footprint_of
from workers.host import keeper
from workers.host.log_lines import LogLines

_END_WITHIN = keeper.PATIENCE + 5.0  # seconds
_CHUNK = 64 << 10


@dataclass(eq=False)
class HostedServer:
    """``name``: of this life of it."""

    process: "subprocess.Popen[bytes]"
    port: int
    lines: LogLines
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    _processes: list[psutil.Process] = field(default_factory=list)

    @classmethod
    def start(cls, table: HostingKeys, asked: Sequence[str]) -> "HostedServer":
        """Its output goes to this worker's log. ``asked``: the paths that it is asked for until it is ready.

        Raises OSError.
        """
        port = _free_port()
        command = [sys.executable, "-P", keeper.__file__, table.stop_signal]
        process = subprocess.Popen(
            [*command, *(_with_port(word, port) for word in table.serve)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(table.env, port, os.environ),
            cwd=Path(table.cwd).expanduser() if table.cwd else None,
        )
        server = cls(process, port, LogLines(tuple(asked), time.monotonic()))
        threading.Thread(target=server._copy_log, name="log", daemon=True).start()
        return server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> float:
        """When it last logged anything but our asking whether it is ready."""
        return self.lines.said

    def _copy_log(self) -> None:
        assert self.process.stdout
        while said := os.read(self.process.stdout.fileno(), _CHUNK):
            _log(self.lines.take(said, time.monotonic()))
        _log(self.lines.end(time.monotonic()))

    def ended(self) -> int | None:
        """Its exit code, or minus the signal that killed it; None while it runs."""
        code = self.process.poll()
        if code is not None:
            self._kill_left()
        return code

    def close(self) -> None:
        """Ends it in order; returns when nothing of it is left."""
        assert self.process.stdin
        with suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._kill_left()

    def footprint(self) -> int:
        """Bytes of this worker and of all processes of its server."""
        found: list[psutil.Process] = []
        with suppress(psutil.Error):
            first = psutil.Process(self.process.pid)
            found = [first, *first.children(recursive=True)]
        lost = [one for one in self._processes if one not in found and one.is_running()]  # theirs was killed
        self._processes = [*found, *lost]
        return footprint_of(os.getpid()) + sum(footprint_of(process.pid) for process in self._processes)

    def open_to_others(self) -> bool:
        """Whether any of its processes listens at an address that other machines reach."""
        with suppress(psutil.Error):
            first = psutil.Process(self.process.pid)
            return any(
                connection.status == psutil.CONN_LISTEN and not ip_address(connection.laddr.ip).is_loopback
                for process in (first, *first.children(recursive=True))
                for connection in process.net_connections()
            )
        return False

    def _kill_left(self) -> None:
        """Only where the keeper was killed before it could."""
        for process in self._processes:
            with suppress(psutil.Error):
                process.kill()
        self._processes = []


def _log(data: bytes) -> None:
    with suppress(OSError):  # a full disk
        os.write(2, data)


def how_it_ended(code: int) -> str:
    """The rest of a sentence that begins with the server."""
    if code >= 0:
        return f"exited with code {code}"
    with suppress(ValueError):
        import signal

        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def _with_port(text: str, port: int) -> str:
    return text.replace("{port}", str(port))


def _environment(own: Mapping[str, str], port: int, inherited: Mapping[str, str]) -> dict[str, str]:
    """Nothing of this server's settings, which may hold keys, and none of its modules."""
    kept = {
        name: value for name, value in for_others(inherited).items() if not name.upper().startswith(PREFIX)
    }
    return {**kept, **{name: _with_port(value, port) for name, value in own.items()}}
