"""Opens OpenBLAS for MLX on Linux, where MLX's wheel links the reference BLAS.

The system's OpenBLAS is preferred. Its functions have the plain names, and the first global library wins a name, so it
is opened before mlx.core is imported. Otherwise ``scipy-openblas32`` from our requirements is used: its names have a
prefix, so MLX's library is loaded here and its three calls are bound to the prefixed functions. A 256x576x1536 product
then runs at 450 GFLOP/s instead of 8. Rule: this module imports no mlx.
"""

import ctypes
import ctypes.util
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from workers.device import cores
from workers.engine.cpu.relocations import bind

Invariance = Literal["exact", "rounding"]  # how far a sequence's numbers in a batch equal those alone

log = logging.getLogger(__name__)

SONAME = "libopenblas.so.0"
PREFIX = "scipy_"  # of all function names in the wheel's library
CALLED = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm")  # the functions that MLX calls

BLAS_ADVICE = (
    "Install OpenBLAS to make MLX about 50 times faster on a CPU: `apt-get install libopenblas0-pthread`."
)

Choice = Literal["auto", "system", "wheel", "none"]


@dataclass(frozen=True)
class OpenBlas:
    library: ctypes.CDLL
    path: Path | str
    prefix: str = ""

    def function(self, name: str) -> Callable[..., int]:
        found: Callable[..., int] = getattr(self.library, self.prefix + name)
        return found


_in_use: OpenBlas | None = None


def open_blas(choice: Choice = "auto") -> Path | str | None:
    """Opens a library and gives its path, or its soname if the kernel hides the path; None without one, or on macOS.

    Raises RuntimeError if mlx.core is imported already, because its symbols may be bound to the reference BLAS.
    """
    global _in_use
    if sys.platform != "linux":
        return None
    if "mlx.core" in sys.modules:
        raise RuntimeError("open_blas() must be called before mlx.core is imported")
    found = _system() if choice in ("auto", "system") else None
    if found is None and choice in ("auto", "wheel"):
        found = _wheel()
    _in_use = found
    return found.path if found else None


def _system() -> OpenBlas | None:
    for name in (SONAME, ctypes.util.find_library("openblas")):
        if name and (library := _opened(name, ctypes.RTLD_GLOBAL)):
            return OpenBlas(library, _mapped_path() or name)
    return None


def _wheel() -> OpenBlas | None:
    """The wheel's OpenBLAS, bound to MLX; None and a warning if it cannot be used."""
    theirs, mlx = (
        _installed("scipy_openblas32", "lib/libscipy_openblas.so"),
        _installed("mlx", "lib/libmlx.so"),
    )
    if theirs is None or mlx is None:
        return None
    try:
        found = OpenBlas(ctypes.CDLL(str(theirs)), theirs, PREFIX)
        bind(ctypes.CDLL(str(mlx)), {name: _address(found.library, PREFIX + name) for name in CALLED})
    except (OSError, AttributeError) as error:
        log.warning("OpenBLAS from %s cannot be used: %s", theirs, error)
        return None
    return found


def _address(library: ctypes.CDLL, name: str) -> int:
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0


def _installed(package: str, file: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    paths = (Path(folder, file) for folder in folders or ())
    return next((path for path in paths if path.is_file()), None)


def share_cores(workers: int) -> None:
    """Sets OpenBLAS's threads to this process's share of the cores. Call it on the thread that calls MLX.

    Two models on two cores give a quarter more tokens with one thread each than with two. The number of threads never
    exceeds the number at the start, which the operator may set with OPENBLAS_NUM_THREADS.
    """
    if most := _threads_at_start():
        _set_threads(min(max(1, cores() // workers), most))


def threads() -> int:
    """How many threads compute in this process: OpenBLAS's threads, or all cores without OpenBLAS."""
    return _in_use.function("openblas_get_num_threads")() if _in_use else cores()


@contextmanager
def thread_counts() -> Iterator[Iterator[int]]:
    """Sets and yields each number of threads that ``share_cores`` may choose, and restores the number at exit."""
    before, most = threads(), _threads_at_start()
    try:
        yield map(_set_threads, sorted({1, most}) if most else [before])
    finally:
        _set_threads(before)


def _set_threads(count: int) -> int:
    if _in_use:
        _in_use.function("openblas_set_num_threads")(count)
    return count


@cache
def _threads_at_start() -> int:
    """OpenBLAS's threads before the first change; 0 without OpenBLAS."""
    return threads() if _in_use else 0


def blas_identity() -> str:
    """Changes with all that decides how the BLAS rounds: the library, the kernels it chose, its threads."""
    if _in_use is None:
        return "none"
    corename = _in_use.library[_in_use.prefix + "openblas_get_corename"]
    corename.restype = ctypes.c_char_p
    path = Path(_in_use.path)
    date = path.stat().st_mtime_ns if path.exists() else 0
    return f"{path} {date} {corename().decode()} {_threads_at_start()}"


def describe_blas(found: Path | str | None) -> str:
    """The line for the log: which BLAS computes, and how to install OpenBLAS if it is missing."""
    if found is not None:
        return f"BLAS: OpenBLAS from {found}"
    if sys.platform == "darwin":
        return "BLAS: Accelerate, which is part of macOS"
    return f"BLAS: the reference BLAS inside MLX, which is slow. {BLAS_ADVICE}"


def _opened(name: str, mode: int) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name, mode=mode)
    except OSError:
        return None


def _mapped_path() -> Path | None:
    """The path of the loaded system library. numpy's own copy has another name (libscipy_openblas)."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # /proc is not mounted in some containers
        return None
    columns = (line.split(maxsplit=5) for line in lines)
    paths = (Path(column[5]) for column in columns if len(column) == 6)
    return next((path for path in paths if path.name.startswith("libopenblas")), None)
