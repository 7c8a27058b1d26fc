"""A library calls the functions bound to it, also through read-only slots; each test runs a process of its own."""

import sys

import pytest

from tests.workers.engine.cpu.test_blas import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="slots are ELF's")

# liblapack of MLX's wheel: its slots are locked, and it tells xerbla_ of bad arguments.
LOCKED = """
import ctypes, importlib.util
from pathlib import Path
from workers.engine.cpu.relocations import _read_only, _slots, bind
folder = Path(importlib.util.find_spec("mlx").submodule_search_locations[0]).parent / "mlx_cpu.libs"
lapack = ctypes.CDLL(str(next(folder.glob("liblapack-*"))))
told = []
kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
mine = kind(lambda name, info, size: told.append(name[:size]))
base, slots = _slots(lapack)
slot = dict(slots)["xerbla_"]
def access():
    for line in open("/proc/self/maps"):
        start, end = (int(each, 16) for each in line.split()[0].split("-"))
        if start <= slot < end:
            return line.split()[1]
before = access()
bind(lapack, {"xerbla_": ctypes.cast(mine, ctypes.c_void_p).value})
one, info = ctypes.c_int(-1), ctypes.c_int()
lapack.spotrf_(b"U", ctypes.byref(one), None, ctypes.byref(one), ctypes.byref(info), 1)
print(slot in _read_only(base), before, access(), told)
"""


def test_a_read_only_relocation_slot_is_written_and_made_read_only_again() -> None:
    assert run(LOCKED) == "True r--p r--p [b'SPOTRF']"


MISSING = """
import ctypes
from workers.engine.cpu.relocations import _slots, bind
library = ctypes.CDLL("libm.so.6")
before = [(name, ctypes.c_uint64.from_address(slot).value) for name, slot in _slots(library)[1]]
try: bind(library, {before[0][0]: 1, "no_such_function": 1})
except OSError as error: print(error)
assert before == [(name, ctypes.c_uint64.from_address(slot).value) for name, slot in _slots(library)[1]]
"""


def test_binding_a_function_that_the_library_does_not_call_names_it_and_writes_nothing() -> None:
    assert run(MISSING) == "it does not call no_such_function through a slot"


def test_binding_on_a_machine_with_unknown_relocation_types_is_refused() -> None:
    program = "import platform; platform.machine = lambda: 'vax'\n" + MISSING.replace(
        "before = [", "before = [] and ["
    )
    program = program.replace("before[0][0]: 1, ", "").replace("assert before", "# ")
    assert run(program) == "nothing is known of slots on vax"
