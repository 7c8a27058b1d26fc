"""Configures glibc's allocator: one heap for all threads, and freed memory stays in it until the engine is idle.

By default glibc returns a large array to the kernel when it is freed, and the kernel clears the pages of the next
array. That took an eighth of the prefill time on a CPU. glibc also gives each thread heaps of 64 MiB, which large
arrays fragment. Arrays above LARGEST_KEPT are still returned at once. Other C libraries are left as they are.
"""

import ctypes
import sys
from collections.abc import Callable

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8  # parameters of mallopt(3)
NEVER = -1
LARGEST_KEPT = 32 << 20  # bytes; the largest threshold that glibc accepts


def keep_freed_memory() -> None:
    """Call this before a second thread starts: a thread keeps the heap it has."""
    if mallopt := _glibc("mallopt"):
        for name, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, LARGEST_KEPT), (TRIM_THRESHOLD, NEVER)):
            mallopt(name, value)


def give_back_freed_memory() -> None:
    """Returns all free pages to the kernel, also those between used ones."""
    if trim := _glibc("malloc_trim"):
        trim(0)


def _glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
