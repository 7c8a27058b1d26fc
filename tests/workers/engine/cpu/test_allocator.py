"""glibc keeps freed memory in the process until it is returned on request."""

import subprocess
import sys

import pytest

FAULTS = """
import ctypes, resource, sys
from workers.engine.cpu.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_the_next_pass_reuses_the_memory_pages_of_the_pass_before() -> None:
    assert faults("kept") < 1000 < faults("given back")


ONE_HEAP = """
import ctypes, threading
from pathlib import Path
from workers.engine.cpu.allocator import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
found = []
thread = threading.Thread(target=lambda: found.append(libc.malloc(8 << 20)))
thread.start()
thread.join()
[heap] = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")]
low, high = (int(end, 16) for end in heap.split("-"))
print(low <= found[0] < high)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_second_thread_allocates_from_the_same_heap() -> None:
    assert (
        subprocess.run([sys.executable, "-c", ONE_HEAP], capture_output=True, check=True).stdout == b"True\n"
    )


GIVEN_BACK = """
import ctypes, psutil
from workers.engine.cpu.allocator import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
taken = [libc.malloc(16 << 20) for _ in range(12)]
for array in taken:
    ctypes.memset(ctypes.c_void_p(array), 1, 16 << 20)
for array in taken[:-1]:  # the last stays in use, above what was freed
    libc.free(ctypes.c_void_p(array))
before = psutil.Process().memory_info().rss
give_back_freed_memory()
print((before - psutil.Process().memory_info().rss) >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_freed_memory_is_returned_to_the_kernel_although_memory_above_it_is_in_use() -> None:
    told = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, check=True).stdout
    assert int(told) > 150
