"""``state.json``: the workers of a broker, for the next one. Written whole or not at all."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from broker.life import Survivor
from broker.processes import find, start_of

log = logging.getLogger(__name__)


class StateFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: tuple[Survivor, ...] | None = None
        self._starts: dict[int, str | None] = {}

    def read(self) -> tuple[Survivor, ...]:
        """Those that live still."""
        try:
            entries = json.loads(self._path.read_text())
            return tuple(survivor for entry in entries if (survivor := _survivor(entry)))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("%s cannot be read, its workers have to come by themselves: %s", self._path, error)
            return ()

    def write(self, known: Iterable[Survivor], pid_of: Callable[[str], int]) -> None:
        """Does nothing if nothing has changed. ``pid_of`` knows our own children before they speak; 0: not yet."""
        known = tuple(replace(one, pid=pid_of(one.id) or one.pid) for one in known)
        if known == self._written:
            return
        self._starts = {one.pid: self._starts.get(one.pid) or start_of(one.pid) for one in known}
        entries = [{**asdict(one), "start": self._starts[one.pid]} for one in known]
        try:
            _replace(self._path, json.dumps(entries, indent=1))
            self._written = known
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)


def _survivor(entry: dict[str, Any]) -> Survivor | None:
    """A broker may have ended between starting a process and learning its pid."""
    pid = int(entry["pid"]) or find(entry["id"])
    start = start_of(pid) if pid else None
    if not pid or start is None or entry["start"] not in (start, None):
        return None
    return Survivor(entry["id"], entry["model"], pid, entry["spawned"], entry["ready"])


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
