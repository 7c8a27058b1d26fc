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
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from shared.model_table import HostingKeys
from shared.settings import PREFIX
from workers.footprint import footprint_of
from workers.host.keeper import PATIENCE

_END_WITHIN = PATIENCE + 5.0  # seconds
_CHUNK = 64 << 10


@dataclass(eq=False)
class HostedServer:
    """``name``: of this life of it; ``said``: when it last wrote a line to its log."""

    keeper: "subprocess.Popen[bytes]"
    port: int
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    said: float = field(default_factory=time.monotonic)
    _processes: list[psutil.Process] = field(default_factory=list)

    @classmethod
    def start(cls, table: HostingKeys) -> "HostedServer":
        """Its output goes to this worker's log. Raises OSError."""
        port = _free_port()
        command = [sys.executable, "-m", "workers.host.keeper", table.stop_signal]
        keeper = subprocess.Popen(
            [*command, *(_with_port(word, port) for word in table.serve)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_environment(table.env, port, os.environ),
            cwd=Path(table.cwd).expanduser() if table.cwd else None,
        )
        server = cls(keeper, port)
        threading.Thread(target=server._copy_log, name="log", daemon=True).start()
        return server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _copy_log(self) -> None:
        assert self.keeper.stdout
        while said := os.read(self.keeper.stdout.fileno(), _CHUNK):
            self.said = time.monotonic()
            with suppress(OSError):  # a full disk
                os.write(2, said)

    def ended(self) -> int | None:
        """Its exit code, or minus the signal that killed it; None while it runs."""
        code = self.keeper.poll()
        if code is not None:
            self._kill_left()
        return code

    def close(self) -> None:
        """Ends it in order; returns when nothing of it is left."""
        assert self.keeper.stdin
        with suppress(OSError):
            self.keeper.stdin.close()
        try:
            self.keeper.wait(_END_WITHIN)
        except subprocess.TimeoutExpired:
            self.keeper.kill()
        self._kill_left()

    def footprint(self) -> int:
        """Bytes of this worker and of all processes of its server."""
        with suppress(psutil.Error):
            keeper = psutil.Process(self.keeper.pid)
            self._processes = [keeper, *keeper.children(recursive=True)]
        return footprint_of(os.getpid()) + sum(footprint_of(process.pid) for process in self._processes)

    def _kill_left(self) -> None:
        """Only where the keeper was killed before it could."""
        for process in self._processes:
            with suppress(psutil.Error):
                process.kill()
        self._processes = []


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
    """Nothing of this server's settings, which may hold keys."""
    kept = {name: value for name, value in inherited.items() if not name.upper().startswith(PREFIX)}
    return {**kept, **{name: _with_port(value, port) for name, value in own.items()}}
