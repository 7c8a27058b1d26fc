"""How much of log files is kept.

Nothing here raises: a file that cannot be trimmed or removed stays as it is.
"""

import contextlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path


def keep_newest(files: Iterable[Path], count: int, but_not: Collection[str] = ()) -> None:
    """Removes the others, and none that ``but_not`` names. Those named count, too."""
    dated = []
    for file in files:
        with contextlib.suppress(OSError):
            dated.append((file.stat().st_mtime_ns, file))
    for _, file in sorted(dated, reverse=True)[max(0, count) :]:
        if str(file) not in but_not:
            with contextlib.suppress(OSError):
                file.unlink()


def keep_end(path: str, most: int) -> None:
    """Of a file with more than ``most`` bytes, the last half of those is left, from the start of a line.

    Whoever writes to it has to append (``O_APPEND``). What is written in the moment between may be lost.
    """
    with contextlib.suppress(OSError):
        if os.stat(path, follow_symlinks=False).st_size <= most:  # noqa: PTH116
            return
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            end = os.pread(file, most // 2, os.fstat(file).st_size - most // 2)
            os.ftruncate(file, 0)
            os.write(file, end[end.find(b"\n") + 1 :])
        finally:
            os.close(file)
