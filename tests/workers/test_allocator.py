"""Freed memory stays with the process."""

import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from workers.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def three_arrays():
    taken = [libc.malloc(31 << 20) for _ in range(3)]
    for array in taken:
        ctypes.memset(ctypes.c_void_p(array), 1, 31 << 20)
    for array in taken:
        libc.free(ctypes.c_void_p(array))
for _ in range(3):
    three_arrays()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    three_arrays()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_the_pages_of_a_passs_arrays_serve_the_next_one() -> None:
    assert faults("kept") < 1000 < faults("given back")
