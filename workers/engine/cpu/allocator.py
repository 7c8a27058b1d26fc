"""What glibc does with a worker's memory: one heap for all threads, where freed memory stays until the engine rests.

By itself it gives a large array back to the kernel as soon as it is freed, and the kernel clears each page of the next
one: an eighth of the time in which a CPU reads a prompt. And it gives the engine's thread heaps of 64 MiB, in which
large arrays leave gaps that others do not fit into. What is larger than LARGEST_KEPT goes back at once nevertheless.
Of other C libraries nothing is asked.
"""

import ctypes
import sys
from collections.abc import Callable

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # of mallopt(3)
NEVER = -1
LARGEST_KEPT = 32 << 20  # bytes; the most glibc takes, and where its own adjustment would end as well


def keep_freed_memory() -> None:
    """To be called before there is a second thread: a heap it has, it keeps."""
    if mallopt := _glibc("mallopt"):
        for name, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGEST_KEPT), (TRIM_THRESHOLD, NEVER)):
            mallopt(name, value)


def give_back_freed_memory() -> None:
    """To the kernel, wherever it lies between what is in use."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def _glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
