"""Edits, reads and refusals of model folders, for the tests of this package."""

import json
import struct
from pathlib import Path

import pytest

from workers.model.load import inspect
from workers.model.load_error import LoadError

ROOT = Path(__file__).parents[3]


def silent(phase: str, done: int, total: int) -> None:
    pass


ABSENT = object()


def edit_json(file: Path, **changes: object) -> None:
    content = (json.loads(file.read_bytes()) if file.exists() else {}) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not ABSENT}))


def refusal(folder: Path) -> str:
    with pytest.raises(LoadError) as caught:
        inspect(folder)
    assert caught.value.permanent
    return caught.value.reason


def safetensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
