"""Where a run took place: hardware and versions, as far as they change figures."""

import ctypes.util
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

PACKAGES = ("mlx-server", "mlx", "mlx-lm", "numpy", "pyzmq", "falcon", "uvicorn", "pydantic")


def machine() -> dict[str, str]:
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load before": f"{psutil.getloadavg()[0]:.1f}",
    }


def versions() -> dict[str, str]:
    found = {name: installed for name in PACKAGES if (installed := _installed(name))}
    return {"Python": platform.python_version(), **found, "BLAS": _blas()}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _blas() -> str:
    if sys.platform == "darwin":
        return "Accelerate"
    return "OpenBLAS" if ctypes.util.find_library("openblas") else "reference"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
