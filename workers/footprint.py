"""How much memory a process takes of the machine, as the system counts it.

Linux: the proportional set size (PSS) of /proc/PID/smaps_rollup, in which a page that several processes share counts
for each by its part; without it the resident set. macOS: ``phys_footprint`` of ``proc_pid_rusage``, as Activity Monitor
shows it, which has Metal's memory in it; not tried on a Mac yet.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

_RUSAGE_INFO_V2 = 2
_BEFORE_PHYS_FOOTPRINT = 16 + 7 * 8  # bytes of rusage_info_v2: uuid, then seven 64-bit numbers (libproc.h)
_RUSAGE_BYTES = 16 + 18 * 8


def footprint() -> int:
    """Of this process, in bytes; costs about a millisecond for each gigabyte in small pages."""
    return footprint_of(os.getpid())


def footprint_of(pid: int) -> int:
    """0: there is no such process any more."""
    measure: Callable[[int], int | None] = _phys_footprint if sys.platform == "darwin" else _proportional
    try:
        return measure(pid) or int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _proportional(pid: int) -> int | None:
    try:
        return proportional(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except OSError:  # an older kernel, or one that hides it
        return None


def proportional(rollup: str) -> int | None:
    """The line ``Pss:  1234 kB`` in bytes."""
    for line in rollup.splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) * 1024
    return None


def _phys_footprint(pid: int) -> int | None:
    buffer = ctypes.create_string_buffer(_RUSAGE_BYTES)
    try:
        failed = ctypes.CDLL(None).proc_pid_rusage(pid, _RUSAGE_INFO_V2, ctypes.byref(buffer))
    except AttributeError:
        return None
    at = _BEFORE_PHYS_FOOTPRINT
    return None if failed else int.from_bytes(buffer.raw[at : at + 8], sys.byteorder)
