"""Programs beside this one: how an operator can type the name of one of ours, and the environment of one of others.

`make serve` puts nothing on the PATH, and a wheel puts its folder of modules on PYTHONPATH.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

_OURS = Path(__file__).resolve().parents[1]


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


def for_others(environment: Mapping[str, str]) -> dict[str, str]:
    """Without our folder of modules, in which another program would find modules with names of its own."""
    folders = [
        each
        for each in environment.get("PYTHONPATH", "").split(os.pathsep)
        if each and Path(each).resolve() != _OURS
    ]
    rest = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    return {**rest, **({"PYTHONPATH": os.pathsep.join(folders)} if folders else {})}
