"""OpenBLAS must be in the process before MLX is; each test is a process of its own, as a worker is."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from workers.blas import BLAS_ADVICE, SONAME, describe_blas

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="macOS has its own BLAS, Accelerate")
ROOT = Path(__file__).parents[2]


def run(program: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env=os.environ | environment,
    )
    return done.stdout.strip()


def test_the_module_imports_no_mlx() -> None:
    assert run("import sys, workers.blas; print('mlx' in sys.modules)") == "False"


@pytest.fixture(scope="module")
def opened() -> str:
    """What ``open_blas`` says where OpenBLAS is installed."""
    if sys.platform != "linux":
        pytest.skip("macOS has its own BLAS, Accelerate")
    try:
        ctypes.CDLL(SONAME)
    except OSError:
        pytest.skip(f"OpenBLAS is not installed. {BLAS_ADVICE}")
    return run("from workers.blas import open_blas; print(open_blas())")


def test_openblas_is_opened_and_its_file_named(opened: str) -> None:
    assert Path(opened).is_file()
    assert Path(opened).name.startswith("libopenblas")


@pytest.mark.usefixtures("opened")
def test_its_symbols_are_global_afterwards() -> None:
    here = "print(hasattr(ctypes.CDLL(None), 'cblas_sgemm'))"
    program = f"import ctypes; from workers.blas import open_blas; {here}; open_blas(); {here}"
    assert run(program).split() == ["False", "True"]


SHARES = """
import ctypes, os
from workers.blas import open_blas, share_cores, threads
open_blas()
for workers in (1, len(os.sched_getaffinity(0)), 1):
    share_cores(workers)
    assert threads() == ctypes.CDLL(None).openblas_get_num_threads()
    print(threads())
"""


@pytest.mark.usefixtures("opened")
def test_workers_that_compute_together_divide_the_cores() -> None:
    cores = str(len(os.sched_getaffinity(0)))
    assert run(SHARES, OPENBLAS_NUM_THREADS="").split() == [cores, "1", cores]


@pytest.mark.usefixtures("opened")
@pytest.mark.skipif(os.cpu_count() == 1, reason="one core cannot be divided")
def test_nobody_gets_more_threads_than_the_operator_has_allowed() -> None:
    assert run(SHARES, OPENBLAS_NUM_THREADS="1").split() == ["1", "1", "1"]


@linux_only
def test_opening_it_after_mlx_is_refused() -> None:
    program = (
        "import mlx.core\nfrom workers.blas import open_blas\n"
        "try: open_blas()\nexcept RuntimeError as error: print(error)"
    )
    assert "before mlx.core" in run(program)


def test_the_line_for_the_log_names_the_library_found() -> None:
    assert describe_blas(Path("/usr/lib/libopenblas.so.0")) == "BLAS: OpenBLAS from /usr/lib/libopenblas.so.0"


@linux_only
def test_the_line_for_the_log_says_what_to_install_when_there_is_none() -> None:
    assert "apt-get install libopenblas0-pthread" in describe_blas(None)
