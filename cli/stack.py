"""One supervisord and what it runs: how it is started, asked and ended. It knows no terminal."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from xmlrpc.client import Error as RpcError
from xmlrpc.client import ServerProxy

import psutil

from cli import family
from shared.settings import PREFIX, Settings


@dataclass(frozen=True)
class Program:
    """What supervisord says of one process; ``state`` in its words: STARTING, RUNNING, BACKOFF, FATAL, …"""

    name: str
    state: str
    pid: int
    started: int  # when it was last started
    log: Path

    @property
    def is_down(self) -> bool:
        """It ended soon after its start, or too often."""
        return self.state in ("BACKOFF", "EXITED", "FATAL")


def find_configuration() -> Path:
    """In a wheel supervisord.conf lies in this package, in a checkout beside it."""
    here = Path(__file__).resolve().parent
    return next(path for folder in (here, here.parent) if (path := folder / "supervisord.conf").exists())


class Stack:
    """``run_dir`` must be claimed first. Whoever makes a Stack calls ``stop`` or ``kill`` in the end."""

    def __init__(self, settings: Settings, options: Mapping[str, Any]) -> None:
        """``options``: the settings given on the command line, which no child could know otherwise."""
        self.run_dir = settings.sockets_dir
        self.log_dir = settings.log_dir
        self.log_dir.mkdir(mode=0o700, exist_ok=True)
        self.output = self.log_dir / "supervisord.out"
        with _open_output(self.output) as output:
            # A session of its own, so that a terminal's Ctrl-C reaches us alone and we can end things in order.
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "cli.supervisord",
                    "-n",
                    "-s",
                    "-c",
                    find_configuration(),
                ],
                env=_environment(settings, options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )
        self._root = psutil.Process(self.process.pid)  # by its start time, too: a pid may be used again

    def programs(self) -> list[Program]:
        """Those that should run, the broker first; empty while supervisord does not answer."""
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, f"unix://{self.run_dir / 'ctl'}")
        try:
            with ServerProxy("http://127.0.0.1", transport=transport) as server:
                known: Any = server.supervisor.getAllProcessInfo()
        except (OSError, HTTPException, RpcError):
            return []
        programs = (
            Program(item["name"], item["statename"], item["pid"], item["start"], Path(item["stdout_logfile"]))
            for item in known
            if item["statename"] != "STOPPED"
        )
        return sorted(programs, key=lambda program: (program.name != "broker", program.name))

    def stop(self) -> None:
        """Asks all to end, and returns at once. SIGINT tells the broker to stop its workers too.

        supervisord is told first: else it would start the broker again.
        """
        broker = next((program.pid for program in self.programs() if program.name == "broker"), 0)
        with suppress(ProcessLookupError):
            self.process.terminate()
        if broker:
            with suppress(ProcessLookupError):
                os.kill(broker, signal.SIGINT)

    def is_anyone_left(self) -> bool:
        return bool(family.find(str(self.run_dir)))

    def terminate_the_rest(self) -> None:
        """Once supervisord has ended: workers that the broker did not take along."""
        family.send(signal.SIGTERM, family.find(str(self.run_dir)))

    def kill(self) -> None:
        """Ends all at once; nothing is left when it returns."""
        family.kill_all(str(self.run_dir), self._root)


def _open_output(path: Path) -> IO[bytes]:
    """What supervisord prints before it has a log; on a disk that takes no file, nobody reads it."""
    try:
        return path.open("wb")
    except OSError:
        return Path(os.devnull).open("wb")


def _environment(settings: Settings, options: Mapping[str, Any]) -> dict[str, str]:
    """Ours, the options, what supervisord.conf expands, and the mark by which ``family`` finds them all."""
    return {
        **os.environ,
        **{PREFIX + name.upper(): str(value) for name, value in options.items()},
        PREFIX + "HOST": settings.host,
        PREFIX + "PORT": str(settings.port),
        PREFIX + "RUN_DIR": str(settings.sockets_dir),
        PREFIX + "API_PROCESSES": str(settings.api_processes),
        PREFIX + "PYTHON": sys.executable,
        family.MARK: str(settings.sockets_dir),
    }
