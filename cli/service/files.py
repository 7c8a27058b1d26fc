"""What launchd or systemd is told of a server: their files as text, and their commands. Pure, on any system.

Rule 1: a system's service starts at boot without a login; a user's one does so under systemd where it may linger.
Rule 2: what stops the server is SIGTERM, and it gets the time that ``mlx-server serve`` may need for that.
Keys are those of launchd.plist(5), and of systemd.service(5), systemd.exec(5) and systemd.unit(5).
"""

import plistlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers.expat import ExpatError

from shared import exits
from shared.files import FILES_WANTED

NAME = "mlx-server"
LABEL = "local.mlx-server"  # launchd's name for it
STOP_SECONDS = 150  # longer than `serve` takes for an orderly stop
AGAIN_SECONDS = 10  # between two starts of a server that ends by itself

Command = tuple[str, ...]


@dataclass(frozen=True)
class Service:
    """``command``: of ``serve``, absolute. ``user`` runs it; ``personal``: it is that user's own, not the system's."""

    command: Sequence[str]
    user: str
    uid: int
    home: Path
    run_dir: Path
    personal: bool = False

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "MLX_SERVER_RUN_DIR": str(self.run_dir),
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }


class Launchd:
    """macOS."""

    title = "launchd"

    def __init__(self, service: Service) -> None:
        self.service = service
        self.domain = f"gui/{service.uid}" if service.personal else "system"
        self.path = (service.home if service.personal else Path("/")) / (
            f"Library/{'LaunchAgents' if service.personal else 'LaunchDaemons'}/{LABEL}.plist"
        )
        self.log = service.home / "Library/Logs/mlx-server.log"

    def text(self) -> str:
        job = {
            "Label": LABEL,
            "ProgramArguments": list(self.service.command),
            "EnvironmentVariables": self.service.environment,
            "WorkingDirectory": str(self.service.home),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": AGAIN_SECONDS,
            "ExitTimeOut": STOP_SECONDS,
            "ProcessType": "Interactive",  # others are slowed down for the sake of what is in front
            "SoftResourceLimits": {"NumberOfFiles": FILES_WANTED},
            "Umask": 0o077,
            "StandardOutPath": str(self.log),
            "StandardErrorPath": str(self.log),
            **({} if self.service.personal else {"UserName": self.service.user}),
        }
        return plistlib.dumps(job, sort_keys=False).decode()

    def start(self) -> list[Command]:
        target = f"{self.domain}/{LABEL}"
        return [("launchctl", "enable", target), ("launchctl", "bootstrap", self.domain, str(self.path))]

    def stop(self) -> list[Command]:
        """It waits for the end of the server. With an error where none is loaded."""
        return [("launchctl", "bootout", f"{self.domain}/{LABEL}")]

    def forget(self) -> list[Command]:
        """Before the file is removed; afterwards ``read_anew``."""
        return []

    def read_anew(self) -> list[Command]:
        return []

    def status(self) -> Command:
        return ("launchctl", "print", f"{self.domain}/{LABEL}")

    def logs(self, lines: int, follow: bool) -> Command:
        return ("tail", "-n", str(lines), *(("-F",) if follow else ()), str(self.log))

    @staticmethod
    def command_in(text: str) -> list[str]:
        """Raises ValueError."""
        try:
            return [str(word) for word in plistlib.loads(text.encode())["ProgramArguments"]]
        except (plistlib.InvalidFileException, ExpatError, KeyError, TypeError) as error:
            raise ValueError("this is no property list of a service") from error


class Systemd:
    """Linux."""

    title = "systemd"

    def __init__(self, service: Service) -> None:
        self.service = service
        self.unit = f"{NAME}.service"
        folder = service.home / ".config/systemd/user" if service.personal else Path("/etc/systemd/system")
        self.path = folder / self.unit
        self._scope = ("--user",) if service.personal else ()

    def text(self) -> str:
        service = self.service
        environment = [
            f"Environment={_quoted(f'{name}={value}')}" for name, value in service.environment.items()
        ]
        user = [] if service.personal else [f"User={service.user}"]
        return "\n".join(
            [
                "[Unit]",
                "Description=An OpenAI-compatible server for MLX models",
                "Wants=network-online.target",
                "After=network-online.target",
                "StartLimitIntervalSec=300",
                "StartLimitBurst=10",
                "",
                "[Service]",
                "Type=exec",
                f"ExecStart={' '.join(_quoted(word, '$') for word in service.command)}",
                *environment,
                *user,
                f"WorkingDirectory={_escaped(str(service.home))}",
                "UMask=0077",
                f"LimitNOFILE={FILES_WANTED}",
                "KillMode=mixed",
                f"TimeoutStopSec={STOP_SECONDS}",
                "Restart=on-failure",
                f"RestartSec={AGAIN_SECONDS}",
                f"RestartPreventExitStatus={exits.UNUSABLE}",
                "",
                "[Install]",
                f"WantedBy={'default' if service.personal else 'multi-user'}.target",
                "",
            ]
        )

    def start(self) -> list[Command]:
        lingers = [("loginctl", "enable-linger", self.service.user)] if self.service.personal else []
        return [
            *self.read_anew(),
            self._call("enable", self.unit),
            self._call("restart", self.unit),
            *lingers,
        ]

    def stop(self) -> list[Command]:
        return [self._call("stop", self.unit)]

    def forget(self) -> list[Command]:
        return [self._call("disable", self.unit)]

    def read_anew(self) -> list[Command]:
        return [self._call("daemon-reload")]

    def status(self) -> Command:
        return self._call("status", "--no-pager", "--lines=0", self.unit)

    def logs(self, lines: int, follow: bool) -> Command:
        return (
            "journalctl",
            *self._scope,
            "-u",
            self.unit,
            "-n",
            str(lines),
            *(("-f",) if follow else ("--no-pager",)),
        )

    def _call(self, *words: str) -> Command:
        return ("systemctl", *self._scope, *words)

    @staticmethod
    def command_in(text: str) -> list[str]:
        """Raises ValueError."""
        for line in text.splitlines():
            if line.startswith("ExecStart="):
                words = shlex.split(line.removeprefix("ExecStart="))
                return [word.replace("%%", "%").replace("$$", "$") for word in words]
        raise ValueError("this is no unit of a service")


Manager = Launchd | Systemd


def _escaped(text: str) -> str:
    """A unit's specifiers begin with %."""
    return text.replace("%", "%%")


def _quoted(text: str, doubled: str = "") -> str:
    """One word of a unit's line. ``doubled``: what else is read as itself only twice."""
    text = _escaped(text).replace("\\", "\\\\").replace('"', '\\"')
    for sign in doubled:
        text = text.replace(sign, sign * 2)
    return f'"{text}"'
