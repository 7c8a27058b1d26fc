"""The limit on open files, which bounds the connections of a process; and folders that only this user can enter."""

import contextlib
import os
import resource
import stat
from pathlib import Path

FILES_WANTED, FILES_NEEDED = 8192, 1024


def raise_file_limit(wanted: int = FILES_WANTED) -> int:
    """As far as the system allows; returns the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class NotPrivate(Exception):
    """The message is for the operator."""


def make_private(path: Path) -> None:
    """Makes the folder if it is missing, and sets its mode to 0700. Raises NotPrivate, OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotPrivate(f"{path} is a symbolic link, not a directory")
    if found.st_uid != os.getuid():
        raise NotPrivate(f"{path} belongs to user {found.st_uid}, not to us ({os.getuid()})")
    path.chmod(0o700)
