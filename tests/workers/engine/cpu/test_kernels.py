"""Batch invariance and resumed answers hold with the OpenBLAS kernels of other machines; runs pytest in subprocesses.

OpenBLAS chooses a kernel by the processor; OPENBLAS_CORETYPE names another one, which it takes if the processor can.
"""

from functools import cache
from itertools import product

import pytest

from tests.blas import VARIABLE
from tests.inner_pytest import passes
from tests.workers.engine.cpu.test_blas import linux_only, run

pytestmark = [pytest.mark.slow, linux_only, pytest.mark.timeout(600)]

HERE = "tests/workers/engine/cpu"
EXACTNESS = [
    f"{HERE}/test_{name}.py" for name in ("matmul", "lm_head", "attention", "two_cores", "invariance")
]
KERNELS = {"its own": "", "Haswell": "Haswell", "Zen": "Zen", "SkylakeX": "SkylakeX", "Nehalem": "Nehalem"}
CORENAME = """
import ctypes
import workers.engine.cpu.blas as blas
blas.open_blas("wheel")
name = blas._in_use.function("openblas_get_corename")
name.restype = ctypes.c_char_p
print(name().decode())
"""


@cache
def own() -> str:
    """The kernel that OpenBLAS takes by itself here."""
    return run(CORENAME)


def kernel(name: str) -> dict[str, str]:
    """The environment that makes OpenBLAS use the kernel ``name``."""
    wanted = KERNELS[name]
    if wanted and (taken := run(CORENAME, OPENBLAS_CORETYPE=wanted)) != wanted:
        pytest.skip(f"this processor cannot run {wanted}'s kernel: OpenBLAS takes {taken}")
    return {"OPENBLAS_CORETYPE": wanted}


@pytest.mark.parametrize(
    ("name", "threads"),
    [("its own", "2"), *product([name for name, wanted in KERNELS.items() if wanted], ["1", "2"])],
)
def test_batches_keep_the_measured_invariance_with_each_openblas_kernel(name: str, threads: str) -> None:
    """The machine's own kernel with one thread is what all other tests run with."""
    if KERNELS[name] == own():
        pytest.skip(f"{name}'s kernel is this machine's own")
    passes([*EXACTNESS, "-m", "not slow"], **kernel(name), OPENBLAS_NUM_THREADS=threads)


@pytest.mark.parametrize("whose", ["wheel", "none"])
def test_batches_keep_the_measured_invariance_with_each_blas(whose: str) -> None:
    passes([*EXACTNESS, "-m", "not slow"], **{VARIABLE: whose})


@pytest.mark.parametrize("name", ["Haswell", "Zen", "SkylakeX"])
def test_resumed_answers_equal_unbroken_ones_with_each_openblas_kernel(name: str) -> None:
    """Runs with two threads, where the order of a sum depends on the number of rows."""
    chats = "changes_no_chat and (sampled or choices or JSON)"
    passes(
        ["-m", "slow", "-k", chats, "tests/faults/test_resume_smollm2.py"],
        **kernel(name),
        OPENBLAS_NUM_THREADS="2",
    )
