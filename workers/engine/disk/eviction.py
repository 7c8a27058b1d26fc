"""What leaves the disk: the blocks used least lately, until a bound and the disk's free space are kept.

Rule 1: of all workers one evicts: whoever holds the lock. Others go on without.
Rule 2: what another version of the server has left, and temporary files whose writer is dead, go first.
Rule 3: the ends of prompts go before their beginnings, because a block without the one before it is never found.
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from shared.failpoints import failpoint
from workers.engine.disk.folder import CURRENT, OTHERS, TEMPORARY

LOCK = "owner.lock"
TURN = 256 << 20  # bytes that a worker may write at least before it looks again
KEPT = 0.9  # of the bound, so that not every block makes another one leave
GB = 10**9
FLOOR = GB  # bytes that stay free on the disk, whatever the bound
SHARE, DEFAULT = 0.1, 10 * GB  # of the free space, and at the most, where no bound is set


@dataclass(frozen=True)
class _File:
    used: int  # nanoseconds
    start: int  # of its tokens in the prompt
    size: int
    path: Path


class Eviction:
    """``limit``: bytes; None: a tenth of what is free and ours, at most 10 GB."""

    def __init__(self, root: Path, limit: int | None, floor: int = FLOOR) -> None:
        self._root = root
        self._limit = limit
        self._floor = floor
        self.bytes = 0  # at the last run

    def run(self) -> int | None:
        """Evicts, and gives how many bytes may be written before the next run; None: another process is at it.

        Several workers write: each gets a sixteenth of the bound, and asks again."""
        self._root.mkdir(mode=0o700, exist_ok=True)
        with self._owned() as owned:
            if not owned:
                return None
            self._remove_foreign()
            files = sorted(self._files(), key=lambda file: (file.used, -file.start))
            self.bytes = sum(file.size for file in files)
            bound = self._bound()
            target = int(bound * KEPT) if self.bytes > bound else bound
            for file in files:
                if self.bytes <= target:
                    break
                with suppress(OSError):
                    file.path.unlink()
                self.bytes -= file.size
            return min(max(0, bound - self.bytes), max(bound // 16, TURN))

    def _bound(self) -> int:
        """What may lie here, as far as others leave the disk to us."""
        ours = self.bytes + shutil.disk_usage(self._root).free
        limit = min(DEFAULT, int(SHARE * ours)) if self._limit is None else self._limit
        return max(0, min(limit, ours - self._floor))

    @contextmanager
    def _owned(self) -> Iterator[bool]:
        file = os.open(self._root / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            yield _locks(file)
        finally:
            os.close(file)

    def _remove_foreign(self) -> None:
        for path in list(self._root.iterdir()):
            if re.fullmatch(OTHERS, path.name) and path.name != CURRENT:
                failpoint("disk.clean")
                shutil.rmtree(path, ignore_errors=True)

    def _files(self) -> Iterator[_File]:
        for folder, _, names in os.walk(self._root / CURRENT):
            for name in names:
                path = Path(folder, name)
                if name.endswith(TEMPORARY):
                    _remove_if_dead(path)
                    continue
                start = path.stem.rpartition("-")[2]
                with suppress(OSError):
                    found = path.stat()
                    yield _File(found.st_mtime_ns, int(start) if start.isdigit() else 0, found.st_size, path)


def _locks(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_if_dead(path: Path) -> None:
    """A living writer holds a lock on its temporary file."""
    with suppress(OSError):
        file = os.open(path, os.O_RDONLY)
        try:
            if _locks(file):
                path.unlink()
        finally:
            os.close(file)
