"""One supervisord and its programs: starts, queries and ends them. It prints nothing."""

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

from cli import stack_processes
from shared.settings import PREFIX, Settings


@dataclass(frozen=True)
class Program:
    """supervisord's report of one process; ``state`` is its term: STARTING, RUNNING, BACKOFF, FATAL, …"""

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
    return Path(__file__).resolve().parents[1] / "supervisord.conf"


class Stack:
    """``run_dir`` must be claimed first. The caller must end the stack with ``stop`` or ``kill``."""

    def __init__(self, settings: Settings, options: Mapping[str, Any]) -> None:
        """``options``: settings from the command line, which are passed to the children as environment variables."""
        self.run_dir = settings.sockets_dir
        self.log_dir = settings.log_dir
        self.log_dir.mkdir(mode=0o700, exist_ok=True)
        self.output = self.log_dir / "supervisord.out"
        with _open_output(self.output) as output:
            # In its own session, so that a terminal's Ctrl-C reaches only this process, which then stops all in order.
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
        self._root = psutil.Process(
            self.process.pid
        )  # psutil compares the start time too, because a pid may be reused

    def programs(self) -> list[Program]:
        """The programs that should run, the broker first; empty while supervisord does not answer."""
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
        """Terminates supervisord and interrupts the broker, which then stops its workers too; returns at once.

        supervisord comes first, because it would restart the broker.
        """
        broker = next((program.pid for program in self.programs() if program.name == "broker"), 0)
        with suppress(ProcessLookupError):
            self.process.terminate()
        if broker:
            with suppress(ProcessLookupError):
                os.kill(broker, signal.SIGINT)

    def is_anyone_left(self) -> bool:
        return bool(stack_processes.find(str(self.run_dir)))

    def terminate_the_rest(self) -> None:
        """Terminates the workers that the broker left, after the end of supervisord."""
        stack_processes.send(signal.SIGTERM, stack_processes.find(str(self.run_dir)))

    def kill(self) -> None:
        """Kills all processes of the stack; none is left when it returns."""
        stack_processes.kill_all(str(self.run_dir), self._root)


def _open_output(path: Path) -> IO[bytes]:
    """The file for supervisord's output before it opens its log; /dev/null if the disk takes no file."""
    try:
        return path.open("wb")
    except OSError:
        return Path(os.devnull).open("wb")


def _environment(settings: Settings, options: Mapping[str, Any]) -> dict[str, str]:
    """Our environment, the options, the variables that supervisord.conf expands, and that of ``stack_processes``."""
    return {
        **os.environ,
        **{PREFIX + name.upper(): str(value) for name, value in options.items()},
        PREFIX + "HOST": settings.host,
        PREFIX + "PORT": str(settings.port),
        PREFIX + "RUN_DIR": str(settings.sockets_dir),
        PREFIX + "API_PROCESSES": str(settings.api_processes),
        PREFIX + "PYTHON": sys.executable,
        stack_processes.VARIABLE: str(settings.sockets_dir),
    }
