"""OpenBLAS is opened before MLX is imported; each test runs a process of its own, as a worker is."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.engine.cpu.blas import SONAME, describe_blas

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="macOS has its own BLAS, Accelerate")
ROOT = Path(__file__).parents[4]


def run(program: str, *arguments: str, **environment: str) -> str:
    return process(program, *arguments, **environment).stdout.strip()


def process(program: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env=os.environ | environment,
    )


def test_the_blas_module_imports_no_mlx() -> None:
    assert run("import sys, workers.engine.cpu.blas; print('mlx' in sys.modules)") == "False"


def system_has_one() -> bool:
    try:
        ctypes.CDLL(SONAME)
    except OSError:
        return False
    return True


of_the_system = pytest.mark.skipif(not system_has_one(), reason=f"the system has no OpenBLAS ({SONAME})")
from_both = pytest.mark.parametrize(
    "whose", [pytest.param("system", marks=of_the_system), pytest.param("wheel", marks=linux_only)]
)


@pytest.fixture(scope="module")
def opened() -> str:
    return run("from workers.engine.cpu.blas import open_blas; print(open_blas())")


@of_the_system
def test_open_blas_gives_the_path_of_the_library_it_opened(opened: str) -> None:
    assert Path(opened).is_file()
    assert Path(opened).name.startswith("libopenblas")


@of_the_system
def test_openblas_symbols_are_global_after_open_blas() -> None:
    here = "print(hasattr(ctypes.CDLL(None), 'cblas_sgemm'))"
    program = f"import ctypes; from workers.engine.cpu.blas import open_blas; {here}; open_blas(); {here}"
    assert run(program).split() == ["False", "True"]


SHARES = """
import os, sys
from workers.engine.cpu.blas import open_blas, share_cores, threads
open_blas(sys.argv[1])
for workers in (1, len(os.sched_getaffinity(0)), 1):
    share_cores(workers)
    print(threads())
"""


@from_both
def test_workers_that_compute_together_divide_the_cores(whose: str) -> None:
    cores = str(len(os.sched_getaffinity(0)))
    assert run(SHARES, whose, OPENBLAS_NUM_THREADS="").split() == [cores, "1", cores]


@from_both
@pytest.mark.skipif(os.cpu_count() == 1, reason="one core cannot be divided")
def test_a_worker_gets_at_most_the_blas_threads_that_the_operator_has_allowed(whose: str) -> None:
    assert run(SHARES, whose, OPENBLAS_NUM_THREADS="1").split() == ["1", "1", "1"]


COUNTS = """
import os, sys
from workers.engine.cpu.blas import open_blas, thread_counts, threads
open_blas(sys.argv[1])
with thread_counts() as counts:
    assert [(count, threads()) for count in counts] == [(count, count) for count in sorted({1, threads()})]
print(threads())
"""


@from_both
def test_thread_counts_restores_the_number_of_blas_threads(whose: str) -> None:
    assert run(COUNTS, whose, OPENBLAS_NUM_THREADS="2") == "2"


PRODUCT = """
import sys, time
from workers.engine.cpu.blas import open_blas
print(open_blas(sys.argv[1]))
import mlx.core as mx
x, w = mx.random.normal((64, 576)), mx.random.normal((576, 1536))
exact = (x[:, :, None].astype(mx.float32) * w).sum(axis=1)
assert mx.allclose(x @ w, exact, rtol=1e-3, atol=1e-3)
def once():
    began = time.perf_counter(); mx.eval(x @ w); return time.perf_counter() - began
print(min(once() for _ in range(20)))
"""


@linux_only
def test_mlx_multiplies_with_the_wheels_openblas_without_a_system_one() -> None:
    """Many times faster than what MLX was linked with."""
    path, seconds = run(PRODUCT, "wheel", OPENBLAS_NUM_THREADS="1").split()
    none, slow = run(PRODUCT, "none").split()
    assert Path(path).name == "libscipy_openblas.so" and none == "None"
    assert float(seconds) * 3 < float(slow)


WITHOUT_THE_SYSTEM_S = """
import workers.engine.cpu.blas as blas
blas.SONAME, blas.ctypes.util.find_library = "libnone.so", lambda name: None
print(blas.open_blas())
"""


@linux_only
def test_open_blas_chooses_the_wheels_library_if_the_system_has_none() -> None:
    assert Path(run(WITHOUT_THE_SYSTEM_S)).name == "libscipy_openblas.so"


@pytest.mark.slow
@linux_only
def test_a_wheel_that_cannot_be_bound_is_logged_and_mlx_keeps_its_own_blas() -> None:
    program = PRODUCT.replace(
        "print(open_blas",
        "import workers.engine.cpu.blas as blas; blas.CALLED += ('cblas_ssymm',); print(open_blas",
    )
    assert run(program, "wheel").split()[0] == "None"
    assert "cannot be used: it does not call cblas_ssymm" in process(program, "wheel").stderr


@linux_only
def test_open_blas_after_importing_mlx_is_refused() -> None:
    program = (
        "import mlx.core\nfrom workers.engine.cpu.blas import open_blas\n"
        "try: open_blas()\nexcept RuntimeError as error: print(error)"
    )
    assert "before mlx.core" in run(program)


def test_the_log_line_names_the_blas_library_in_use() -> None:
    assert describe_blas(Path("/usr/lib/libopenblas.so.0")) == "BLAS: OpenBLAS from /usr/lib/libopenblas.so.0"


@linux_only
def test_the_log_line_says_how_to_install_openblas_if_it_is_missing() -> None:
    assert "apt-get install libopenblas0-pthread" in describe_blas(None)
