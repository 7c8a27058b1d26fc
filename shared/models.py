"""The registry of models an operator has allowed: names that may be asked for, and where each comes from.

A name in a request is looked up here and nowhere else; it never becomes a path or a download.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

EMBEDDED_MODEL = "smollm2-135m-instruct"

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@:-]{0,199}")


@dataclass(frozen=True)
class ModelSource:
    """``location``: a folder's path or a hub repository's id; empty for the embedded model."""

    id: str
    kind: Literal["embedded", "folder", "hub"]
    location: str


def parse_source(entry: str) -> ModelSource:
    """Reads one entry of ``available_models``: ``ID``, ``/path/to/folder`` or ``ID=/path/to/folder``.

    A folder without an ID is named after itself. Raises ValueError with a sentence for the operator.
    """
    name, equals, location = entry.strip().partition("=")
    if not equals and name.startswith(("/", "~", ".")):
        name, location = Path(name).expanduser().resolve().name, name
    if not _ID.fullmatch(name):
        raise ValueError(f"{name!r} is not a model id: letters, digits and . _ / @ : - only, 200 at most")
    if location:
        return ModelSource(name, "folder", str(Path(location).expanduser().resolve()))
    if equals:
        raise ValueError(f"{entry!r} names no folder after '='")
    if name == EMBEDDED_MODEL:
        return ModelSource(name, "embedded", "")
    return ModelSource(name, "hub", name)
