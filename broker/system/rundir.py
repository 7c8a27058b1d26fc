"""The run directory: one broker at a time holds it, and no other user can read it.

The lock is taken before anything else in it is touched, and held for life: a second bind on a path would steal the
socket without an error. The kernel frees the lock however its holder ends.

The token and the folder of logs are put back when they are gone: systems remove old files from /tmp after some days,
and a worker without the token is none.
"""

import fcntl
import logging
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from shared.files import NotPrivate, make_private
from shared.settings import Settings

log = logging.getLogger(__name__)


class RunDirError(Exception):
    """The run directory cannot be used; the message is for the operator."""


class AlreadyRunningError(RunDirError):
    """Another broker holds the run directory."""


class RunDir:
    def __init__(self, settings: Settings) -> None:
        """Raises AlreadyRunningError with the holder's pid, or RunDirError."""
        os.umask(0o077)
        self._settings = settings
        try:
            make_private(settings.sockets_dir)
            self.lock = _lock(settings.sockets_dir / "broker.lock")
            make_private(settings.log_dir)
            for path in (settings.api_socket, settings.worker_socket):
                _remove_stale_socket(path)
            self.token = _keep_or_make_token(settings.token_file)
        except NotPrivate as error:
            raise RunDirError(str(error)) from None
        except OSError as error:
            raise RunDirError(f"{settings.sockets_dir} cannot be used: {error}") from error

    def restore(self) -> None:
        """Puts back what workers need and somebody removed. Raises nothing."""
        logs, token = self._settings.log_dir, self._settings.token_file
        if logs.is_dir() and token.exists():
            return
        try:
            make_private(logs)
            _keep_or_make_token(token, self.token)
            log.warning("somebody has removed files of %s; they are there again", self._settings.sockets_dir)
        except (NotPrivate, OSError) as error:
            log.warning("somebody has removed files of the run directory, and they cannot be made: %s", error)


def _lock(path: Path) -> int:
    """Returns the open file; closed on exec, so that no worker inherits the lock."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(file)
        raise AlreadyRunningError(f"another broker (pid {holder}) holds {path}") from None
    with suppress(OSError):  # the lock is what counts; the disk may be full
        os.pwrite(file, f"{os.getpid():<10}\n".encode(), 0)
    return file


def _remove_stale_socket(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise RunDirError(f"{path} is in the way: it is not a socket")
    path.unlink()


def _keep_or_make_token(path: Path, new: str = "") -> str:
    """The token of an earlier broker is kept, so that its workers may come back. ``new``: what is written else."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "r+", encoding="ascii", errors="replace") as stream:
        os.fchmod(file, 0o600)
        token = stream.read().strip()
        if not token:
            token = new or secrets.token_hex(32)
            stream.write(token + "\n")
    return token
