"""``state.json``: the workers of a broker, for the next one; written whole or not at all.

On a full disk a file can still be overwritten in place, in the block that it has. Where that fails too, the broker goes
on without the file, logs it once, and tries again every second.
"""

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from broker.startup import Survivor
from broker.system.processes import find, start_of

log = logging.getLogger(__name__)

RETRY = 1.0  # seconds


class StateFile:
    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._failed: float | None = None  # when the last attempt failed
        self._written: tuple[Survivor, ...] | None = None
        self._starts: dict[int, str | None] = {}

    def read(self) -> tuple[Survivor, ...]:
        """The workers in the file that still live."""
        try:
            entries = json.loads(self._path.read_text())
            return tuple(survivor for entry in entries if (survivor := _survivor(entry)))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s cannot be read, so its workers are not awaited: %s", self._path, error)
            return ()

    def write(self, known: Iterable[Survivor], pid_of: Callable[[str], int]) -> None:
        """Does nothing if nothing has changed. ``pid_of`` gives the pids of our own children, and 0 for others."""
        known = tuple(replace(one, pid=pid_of(one.id) or one.pid) for one in known)
        if known == self._written or self._waits_after_failure():
            return
        self._starts = {one.pid: self._starts.get(one.pid) or start_of(one.pid) for one in known}
        entries = [{**asdict(one), "start": self._starts[one.pid]} for one in known]
        try:
            write_whole(self._path, json.dumps(entries, indent=1))
        except OSError as error:
            if self._failed is None:
                log.warning("%s cannot be written, and is tried again: %s", self._path, error)
            self._failed = self._clock()
            return
        if self._failed is not None:
            log.info("%s is written again", self._path)
        self._written, self._failed = known, None

    def _waits_after_failure(self) -> bool:
        return self._failed is not None and self._clock() < self._failed + RETRY


def _survivor(entry: dict[str, Any]) -> Survivor | None:
    """A broker may have ended between starting a process and learning its pid."""
    pid = int(entry["pid"]) or find(entry["id"])
    start = start_of(pid) if pid else None
    if not pid or start is None or entry["start"] not in (start, None):
        return None
    return Survivor(entry["id"], entry["model"], pid, entry["spawned"], entry["ready"])


def write_whole(path: Path, text: str) -> None:
    """Raises OSError, and leaves what was there."""
    try:
        _replace(path, text)
    except OSError:
        _overwrite(path, text)


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    try:
        with beside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _overwrite(path: Path, text: str) -> None:
    """In one call and without shrinking the file: a process killed here leaves the old state or the new one, whole."""
    file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(file)
        content = text.encode().ljust(found.st_size)
        if len(content) > found.st_blocks * 512:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.pwrite(file, content, 0)
    finally:
        os.close(file)
