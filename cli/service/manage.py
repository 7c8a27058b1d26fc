"""``mlx-server service``: makes the server a service of launchd (macOS) or systemd (Linux), and looks after it.

Rule 1: ``--dry-run`` prints the files and the commands, and does nothing.
Rule 2: a server that runs is not ended for one that could not start: settings are read before a restart, and then the
command waits until the new server is ready.
"""

import os
import pwd
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from cli import claim, probe
from cli.models.wrong import wrong_models
from cli.refusal import Refused, refuse
from cli.service import serve_options
from cli.service.files import Command, Launchd, Manager, Service, Systemd
from shared import exits
from shared.commands import typed
from shared.config_file import IN_FOLDER
from shared.settings import ENV_FILE, PREFIX, Settings, origins, read_settings
from shared.settings_errors import SettingsError

READY_SECONDS = 90.0
TRIES = 20  # launchd refuses a service whose last process is not quite gone yet
_RUN_DIR = ".cache/mlx-server/service"


def manager(personal: bool, user: str | None) -> Manager:
    """Of this system. ``user``: who runs it, if it is the system's; else who asks. Raises Refused."""
    try:
        if personal and user and user != pwd.getpwuid(_uid()).pw_name:
            raise Refused("--user makes a service of your own: say it without `sudo` and --run-as.")
        who = pwd.getpwnam(user) if user and not personal else pwd.getpwuid(_uid())
    except KeyError:
        raise Refused(f"--run-as: there is no user {user or _uid()}.") from None
    home = Path.home() if personal else Path(who.pw_dir)
    return _manager(Service((), who.pw_name, who.pw_uid, home, home / _RUN_DIR, personal))


def _manager(service: Service) -> Manager:
    return Launchd(service) if sys.platform == "darwin" else Systemd(service)


def install(personal: bool, user: str | None, words: Sequence[str], *, dry_run: bool) -> int:
    """Also again, with other options. Returns the exit code, as all of these."""
    try:
        service = manager(personal, user)
        _may(service, dry_run)
        if not personal and user is None and _uid() == 0:
            raise Refused("Say with --run-as NAME who runs the server, so that it is not root.")
        options = serve_options.read(words)
        settings = _settings(service, options)
        command = [*_program(), "serve", *serve_options.absolute(words, options, settings)]
        service = _manager(replace(service.service, command=command))
        _warn_of_what_stays_here(options)
        if dry_run:
            _print_plan(service)
            return 0
        return _put(service, settings)
    except Refused as failure:
        return refuse(failure)


def restart(personal: bool, user: str | None, *, dry_run: bool) -> int:
    try:
        service = manager(personal, user)
        settings = _installed_settings(service)
        _may(service, dry_run)
        if dry_run:
            _print_commands([*service.stop(), *service.start()])
            return 0
        return _begin(service, settings, service.stop())
    except Refused as failure:
        return refuse(failure)


def uninstall(personal: bool, user: str | None, *, dry_run: bool) -> int:
    try:
        service = manager(personal, user)
        _installed(service)
        _may(service, dry_run)
        if dry_run:
            _print_commands(
                [*service.stop(), *service.forget(), ("rm", str(service.path)), *service.read_anew()]
            )
            return 0
        for command in service.stop():
            _run(command, must=False)
        _forget(service)
    except (Refused, OSError) as failure:
        return refuse(failure)
    print(
        f"The service is no more. Models, logs and settings are where they were ({service.service.run_dir})."
    )
    return 0


def status(personal: bool, user: str | None) -> int:
    try:
        service = manager(personal, user)
        settings = _installed_settings(service)
    except Refused as failure:
        return refuse(failure)
    with suppress(OSError):
        subprocess.call(service.status())
    if _is_ready(settings):
        print(f"The server is ready at {probe.address(settings)}.")
        return 0
    return refuse(f"No server is ready at {probe.address(settings)}; `{_command(service, 'logs')}` says why.")


def logs(personal: bool, user: str | None, *, follow: bool, lines: int) -> int:
    try:
        service = manager(personal, user)
        _installed(service)
        return subprocess.call(service.logs(lines, follow))
    except (Refused, OSError) as failure:
        return refuse(failure)
    except KeyboardInterrupt:
        return 0


def _uid() -> int:
    return os.getuid()


def _program() -> list[str]:
    """``mlx-server`` of this Python."""
    command = Path(sys.executable).absolute().parent / "mlx-server"
    return [str(command)] if command.is_file() else [sys.executable, "-P", "-m", "cli"]


def _may(service: Manager, dry_run: bool) -> None:
    if not dry_run and not service.service.personal and _uid() != 0:
        again = shlex.join(["sudo", str(Path(sys.argv[0]).absolute()), *sys.argv[1:]])
        raise Refused(f"A service of the system needs root: `{again}`; `--user` makes it yours alone.")


def _installed(service: Manager) -> list[str]:
    """The command of the service that is there."""
    try:
        return service.command_in(service.path.read_text())
    except FileNotFoundError:
        raise Refused(
            f"There is no service ({service.path}). `{_command(service, 'install')}` makes one."
        ) from None
    except (OSError, ValueError) as error:
        raise Refused(f"{service.path}: {error}") from None


def _installed_settings(service: Manager) -> Settings:
    command = _installed(service)
    words = command[command.index("serve") + 1 :] if "serve" in command else command
    return _settings(service, serve_options.read(words))


def _settings(service: Manager, options: Mapping[str, Any]) -> Settings:
    """Those that the service will have, as far as options and files say them. Raises Refused for what cannot be."""
    try:
        settings = read_settings(**{"run_dir": service.service.run_dir, **options})
    except SettingsError as error:
        raise Refused(
            "These settings cannot be used, and nothing is changed:\n" + "\n".join(error.lines)
        ) from None
    if wrong := list(wrong_models(settings)):
        raise Refused("These models cannot be served, and nothing is changed:\n" + "\n".join(wrong))
    return settings


def _warn_of_what_stays_here(options: Mapping[str, Any]) -> None:
    """The service is started elsewhere, without the variables of this shell and the files of this folder."""
    sources = origins(**options)
    here = [PREFIX + name.upper() for name, source in sources.items() if source == "environment"]
    if any(source.startswith(f"{ENV_FILE}, ") for source in sources.values()):
        here.append(ENV_FILE)
    if sources["config"] == "found" and Path(IN_FOLDER).is_file():
        here.append(IN_FOLDER)
    if here:
        refuse(f"These do not reach the service, which a file named by --config does: {', '.join(here)}.")


def _command(service: Manager, word: str) -> str:
    return f"{typed('mlx-server')} service {word}{' --user' if service.service.personal else ''}"


def _put(service: Manager, settings: Settings) -> int:
    """A file that the system does not take is not left there. Raises Refused."""
    tool = service.start()[0][0]
    if shutil.which(tool) is None:
        raise Refused(f"There is no `{tool}` here: {service.title} does not run this system.")
    before = service.path.read_text() if service.path.exists() else None
    if before is None:  # else what listens there is the service itself
        _check_port(settings)
    _write(service)
    try:
        return _begin(service, settings, service.stop() if isinstance(service, Launchd) else [])
    except Refused:
        if before is None:
            _forget(service)
        else:
            service.path.write_text(before)
        raise


def _forget(service: Manager) -> None:
    for command in service.forget():
        _run(command, must=False)
    service.path.unlink()
    for command in service.read_anew():
        _run(command, must=False)


def _check_port(settings: Settings) -> None:
    """Another server there would be taken for the service when it is ready."""
    try:
        claim.check_port(settings.host, settings.port)
    except claim.Refusal as refusal:
        raise Refused(f"{refusal} Nothing is changed.") from None


def _print_plan(service: Manager) -> None:
    print(f"# {service.path}")
    print(service.text())
    _print_commands(service.start())


def _print_commands(commands: Iterable[Command]) -> None:
    print("# then:")
    for command in commands:
        print(shlex.join(command))


def _write(service: Manager) -> None:
    try:
        service.path.parent.mkdir(parents=True, exist_ok=True)
        service.path.write_text(service.text())
        service.path.chmod(0o644)
    except OSError as error:
        raise Refused(f"{service.path} cannot be written: {error.strerror}.") from None


def _begin(service: Manager, settings: Settings, before: Iterable[Command]) -> int:
    """Starts the service, after what comes before, and waits until the server is ready."""
    for command in before:
        _run(command, must=False)
    for command in service.start():
        _run(command, must=command[0] != "loginctl", tries=TRIES if command[0] == "launchctl" else 1)
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if _is_ready(settings):
            print(
                f"The server is ready at {probe.address(settings)}, and starts with the system ({service.path})."
            )
            return exits.STOPPED
        time.sleep(0.5)
    refuse(f"No server is ready at {probe.address(settings)} after {READY_SECONDS:.0f} s. Its log ends so:")
    subprocess.call(service.logs(20, follow=False))
    return exits.FELL_OVER


def _run(command: Command, *, must: bool, tries: int = 1) -> None:
    for left in reversed(range(tries)):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise Refused(f"`{' '.join(command)}`: {error.strerror}.") from None
        if done.returncode == 0 or not must:
            return
        if left:
            time.sleep(1.0)
    raise Refused(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}")


def _is_ready(settings: Settings) -> bool:
    answer = probe.get(settings, "/ready", timeout=1.0)
    return answer is not None and answer.status == HTTPStatus.OK
