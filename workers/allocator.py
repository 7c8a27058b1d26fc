"""Memory that was freed stays with the process, for the next pass.

glibc gives a large array back to the kernel as soon as it is freed, and the kernel clears each page of the next one:
an eighth of the time in which a CPU reads a prompt.
"""

import ctypes
import sys
from collections.abc import Callable

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT = 256 << 20  # bytes, more than the arrays of one pass
LARGEST_KEPT = 32 << 20  # bytes; the most glibc takes, and where its own adjustment would end as well


def keep_freed_memory() -> bool:
    """Whether this C library can; others than glibc are left alone."""
    if sys.platform != "linux":
        return False
    mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(TRIM_THRESHOLD, KEPT))
