"""How an operator can type a command that is installed beside this Python: `make serve` puts nothing on the PATH."""

import shutil
import sys
from pathlib import Path


def typed(
    name: str, python: str = sys.executable, path: str | None = None, folder: Path | None = None
) -> str:
    """``name`` if the PATH leads to it, else its path, relative to the current folder where it lies below it.

    A command that is not installed is returned by name. ``python``, ``path``, ``folder``: of this process if not given.
    """
    command = Path(python).absolute().parent / name
    found = shutil.which(name, path=path)
    if not command.is_file() or (found is not None and Path(found).resolve() == command.resolve()):
        return name
    folder = folder or Path.cwd()
    return str(command.relative_to(folder) if command.is_relative_to(folder) else command)
