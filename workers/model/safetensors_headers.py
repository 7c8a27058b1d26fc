"""Checks the headers of safetensors files before MLX reads them.

A file is 8 bytes of header length, the header (JSON), then the tensors without a gap: the format allows no byte outside
a tensor (https://huggingface.co/docs/safetensors). A header is untrusted, so its size is bounded before it is parsed.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workers.model.folder import refuse_pointer
from workers.model.load_error import LoadError, first_line

MAX_HEADER_BYTES = 32_000_000  # 100,000 tensors take 15 MB; parsing blocks every other thread
MAX_TENSORS = 100_000  # per file; Kimi K2 Thinking has 210,000 in 62 files
MAX_TENSORS_IN_ALL = 1_000_000
MAX_DIMENSIONS = 8
MAX_LENGTH = 1 << 40  # of one dimension

_ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"), 8),
}

Span = tuple[int, int, str]
"""(first byte, end, name) of a tensor; offsets count from the end of the header."""


def read_header(file: Path) -> bytes:
    """The header's bytes, if its length fits the file. Raises LoadError."""
    if not file.is_file():
        raise _garbled(file, "it is not a regular file")
    try:
        with file.open("rb") as stream:
            refuse_pointer(file, stream.read(64))
            stream.seek(0)
            length = int.from_bytes(stream.read(8), "little")
            room = file.stat().st_size - 8
            if not 2 <= length <= min(room, MAX_HEADER_BYTES):
                raise _garbled(file, f"its header should have {length} bytes, in a file with room for {room}")
            return stream.read(length)
    except OSError as error:
        raise LoadError(f"{file} cannot be read: {error}.", permanent=True) from error


def check_header(file: Path, header: bytes) -> list[Span]:
    """Checks that each tensor has the size of its shape and that the tensors fill the file. Raises LoadError."""
    if header.count(b"data_offsets") > MAX_TENSORS:
        raise _garbled(file, f"it has more than {MAX_TENSORS} tensors")
    try:
        tensors = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise _garbled(file, f"its header is not JSON ({first_line(error)})") from error
    if not isinstance(tensors, dict):
        raise _garbled(file, "its header is not an object")
    tensors.pop("__metadata__", None)
    if len(tensors) > MAX_TENSORS:
        raise _garbled(file, f"it has more than {MAX_TENSORS} tensors")
    end = 0
    spans = sorted(_spans(file, tensors))
    for start, stop, name in spans:
        if start != end:
            raise _garbled(
                file, f"tensor {name!r:.80} begins at byte {start}, where {end} is the next free one"
            )
        end = stop
    if end != file.stat().st_size - 8 - len(header):
        raise _garbled(file, f"its tensors end at byte {end} of {file.stat().st_size - 8 - len(header)}")
    return spans


def samples(file: Path, origin: int, spans: list[Span]) -> bytes:
    """64 bytes from the middle of every tensor: 10 microseconds each, while a whole file takes seconds."""
    taken = bytearray()
    with file.open("rb", buffering=0) as stream:
        for start, stop, _ in spans:
            stream.seek(origin + (start + stop) // 2)
            taken += stream.read(min(64, stop - (start + stop) // 2))
    return bytes(taken)


def _spans(file: Path, tensors: Mapping[str, Any]) -> Iterator[Span]:
    for name, tensor in tensors.items():
        match tensor:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [start, stop]} if (
                dtype in _ITEM_BITS
                and len(shape) <= MAX_DIMENSIONS
                and all(map(_is_length, [*shape, start, stop]))
                and (stop - start) * 8 == math.prod(shape) * _ITEM_BITS[dtype]
            ):
                yield start, stop, name
            case _:
                raise _garbled(file, f"tensor {name!r:.80} is described wrongly")


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_LENGTH


def _garbled(file: Path, why: str) -> LoadError:
    reason = f"{file.name} is not a whole safetensors file ({why}): fetch the model again."
    return LoadError(reason, permanent=True)
