"""What is replaced in mlx and mlx-lm, and the one module that does it: it knows the versions, and can take it back.

Rule 1: no other module sets an attribute of a module or class of theirs. (Which BLAS the library of mlx calls is told
    to the loader: see ``cpu.relocations``.)
Rule 2: only in the versions that the replacements were written for. Others may call them in another way, so there all
    stays as it is: slower, and right. A warning says so once.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

log = logging.getLogger(__name__)

KNOWN = {"mlx": "0.32", "mlx-lm": "0.32"}  # by distribution: its minor version, that of pyproject.toml

_replaced: list[tuple[Any, str, Any]] = []  # the owner of an attribute, its name, and what was there


def replace(owner: Any, name: str, ours: Any) -> None:
    """Sets an attribute of a module or class of theirs; once more is no harm."""
    theirs = getattr(owner, name)
    if theirs is not ours and is_known():
        _replaced.append((owner, name, theirs))
        setattr(owner, name, ours)


@contextmanager
def taken_back() -> Iterator[None]:
    """For a while mlx and mlx-lm are as they are without us; for tests."""
    ours = [(owner, name, getattr(owner, name)) for owner, name, _ in _replaced]
    while _replaced:
        owner, name, theirs = _replaced.pop()
        setattr(owner, name, theirs)
    try:
        yield
    finally:
        for each in ours:
            replace(*each)


@contextmanager
def replaced(owner: Any, name: str, ours: Any) -> Iterator[None]:
    """Sets it for a while, in any version."""
    theirs = getattr(owner, name)
    setattr(owner, name, ours)
    try:
        yield
    finally:
        setattr(owner, name, theirs)


@cache
def is_known() -> bool:
    """Whether the versions of mlx and mlx-lm here are those that the replacements were written for."""
    here = {name: _version_of(name) for name in KNOWN}
    unknown = [
        f"{name} {here[name]} (known: {known}.*)"
        for name, known in KNOWN.items()
        if not re.match(rf"{re.escape(known)}(?!\d)", here[name])
    ]
    if unknown:
        log.warning(
            "%s: the faster kernels are left out, and models compute with those of mlx and mlx-lm. "
            "Install the versions that mlx-server asks for.",
            ", ".join(unknown),
        )
    return not unknown


def _version_of(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of an unknown version"
