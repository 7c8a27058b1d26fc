"""Opens OpenBLAS for MLX on Linux, where its wheel links the reference BLAS.

The first library to offer a symbol globally wins, so this must run before mlx.core is imported: a
256x576x1536 product then runs at 184 GFLOP/s instead of 2. Rule: this module imports no mlx.
"""

import ctypes
import ctypes.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from workers.engine.device import cores

SONAME = "libopenblas.so.0"

BLAS_ADVICE = (
    "Install OpenBLAS to make MLX about 90 times faster on a CPU: `apt-get install libopenblas0-pthread`."
)


def open_blas() -> Path | str | None:
    """What was opened: its path if the kernel tells it, else its soname; None if there is none, or on macOS.

    Raises RuntimeError when mlx.core is imported already: it has bound its symbols and would not notice.
    """
    if sys.platform != "linux":
        return None
    if "mlx.core" in sys.modules:
        raise RuntimeError("open_blas() must be called before mlx.core is imported")
    for name in (SONAME, ctypes.util.find_library("openblas")):
        if name and _opened(name):
            return _mapped_path() or name
    return None


def share_cores(workers: int) -> None:
    """For OpenBLAS: the cores are divided among so many processes that compute. Call it where MLX is called.

    Two models that answer at once on two cores give a quarter more tokens with a thread each than with two. Never more
    threads than OpenBLAS had at its start: OPENBLAS_NUM_THREADS, where the operator has set it.
    """
    most = _threads_at_start()
    if sys.platform == "linux" and most:
        share = max(1, cores() // workers)
        ctypes.CDLL(None).openblas_set_num_threads(min(share, most))


def threads() -> int:
    """This process computes with just now: OpenBLAS's, or without it all cores."""
    count = _count()
    return count() if count else cores()


@cache
def _threads_at_start() -> int:
    """Zero without OpenBLAS; asked before the first change."""
    count = _count()
    return count() if count else 0


@cache
def _count() -> Callable[[], int] | None:
    return getattr(ctypes.CDLL(None), "openblas_get_num_threads", None)


def describe_blas(found: Path | str | None) -> str:
    """The one line for the log: which BLAS computes, and what to do if it is the slow one."""
    if found is not None:
        return f"BLAS: OpenBLAS from {found}"
    if sys.platform == "darwin":
        return "BLAS: Accelerate, which is part of macOS"
    return f"BLAS: the reference BLAS inside MLX, which is slow. {BLAS_ADVICE}"


def _opened(name: str) -> bool:
    try:
        ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _mapped_path() -> Path | None:
    """Where the library came from; numpy's own copy has another name (libscipy_openblas)."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # /proc is not mounted in some containers
        return None
    columns = (line.split(maxsplit=5) for line in lines)
    paths = (Path(column[5]) for column in columns if len(column) == 6)
    return next((path for path in paths if path.name.startswith("libopenblas")), None)
