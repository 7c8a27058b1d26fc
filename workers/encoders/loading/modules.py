"""sentence-transformers' ``modules.json``: the parts a text goes through, one behind the other; pure.

Rule: a path in it comes from a stranger, and stays inside of the folder.
"""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from workers.model.load_error import LoadError, first_line

NAME = "modules.json"
MOST = 16
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Module:
    """``type`` is a class of sentence-transformers; ``path`` its folder, empty for the model's own."""

    type: str
    path: str


def modules_of(folder: Path) -> tuple[Module, ...]:
    """Empty if there is no such file. Raises LoadError."""
    file = folder / NAME
    if not file.exists():
        return ()
    try:
        if file.stat().st_size > MAX_BYTES:
            raise _damaged("it is too long")
        entries = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(first_line(error)) from error
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST:
        raise _damaged(f"it is not a list of 1 to {MOST} modules")
    return tuple(map(_module, entries))


def _module(entry: object) -> Module:
    type_, path = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    if not isinstance(type_, str) or not isinstance(path, str):
        raise _damaged("a module has no type and path")
    inside = PurePosixPath(path)
    if inside.is_absolute() or ".." in inside.parts:
        raise _damaged(f"a module's path leads out of the folder: {path!r:.80}")
    return Module(type_, path)


def last_name(type_: str) -> str:
    """The class name without its package, which differs between versions."""
    return type_.rpartition(".")[2]


def _damaged(why: str) -> LoadError:
    return LoadError(
        f"{NAME} is not as sentence-transformers writes it ({why}): fetch the model again.", True
    )
