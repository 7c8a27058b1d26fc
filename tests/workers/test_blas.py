"""OpenBLAS must be in the process before MLX is; each test is a process of its own, as a worker is."""

import subprocess
import sys
from pathlib import Path

import pytest

from workers.blas import BLAS_ADVICE, describe_blas

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="macOS has its own BLAS, Accelerate")
ROOT = Path(__file__).parents[2]


def run(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return done.stdout.strip()


def test_the_module_imports_no_mlx() -> None:
    assert run("import sys, workers.blas; print('mlx' in sys.modules)") == "False"


@linux_only
def test_openblas_is_opened_and_its_file_named() -> None:
    found = run("from workers.blas import open_blas; print(open_blas())")
    if found == "None":
        pytest.skip(f"OpenBLAS is not installed. {BLAS_ADVICE}")
    assert Path(found).is_file()
    assert Path(found).name.startswith("libopenblas")


@linux_only
def test_its_symbols_are_global_afterwards() -> None:
    program = (
        "import ctypes; from workers.blas import open_blas; found = open_blas();"
        "print(found is None or hasattr(ctypes.CDLL(None), 'cblas_sgemm'))"
    )
    assert run(program) == "True"


@linux_only
def test_workers_that_compute_together_divide_the_cores() -> None:
    program = (
        "import ctypes, os; from workers.blas import open_blas, share_cores\n"
        "if open_blas():\n"
        "    threads, cores = ctypes.CDLL(None).openblas_get_num_threads, len(os.sched_getaffinity(0))\n"
        "    share_cores(cores); alone = threads(); share_cores(1); print(alone, threads() == cores)"
    )
    assert run(program) in ("1 True", "")


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
