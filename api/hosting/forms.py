"""The fields of a form (multipart/form-data), as uploads of audio are sent; only names and small fields are read. Pure.

RFC 7578: a line of two hyphens and the boundary separates parts; a part has header lines, an empty line and a value.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

from api.http.errors import InvalidField

MULTIPART = "multipart/form-data"
_NAME = re.compile(rb'content-disposition:[^\r\n]*?[; ]name="?([^";\r\n]*)"?', re.IGNORECASE)
_MOST_PARTS = 64


@dataclass(frozen=True)
class Field:
    """``start`` and ``end``: of its value in the form."""

    name: str
    start: int
    end: int


def boundary_of(content_type: str) -> bytes:
    """Raises InvalidField."""
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not boundary:
        raise _invalid("The form's content type names no boundary.")
    return b"--" + boundary.encode("latin-1", "replace")


def fields(data: bytes, boundary: bytes) -> Iterator[Field]:
    """Raises InvalidField."""
    at = data.find(boundary)
    for _ in range(_MOST_PARTS):
        if at < 0:
            raise _invalid("The form has no part, or no end.")
        begin = at + len(boundary)
        if data[begin : begin + 2] == b"--":
            return
        head = data.find(b"\r\n\r\n", begin)
        at = data.find(b"\r\n" + boundary, begin)
        if head < 0 or at < head:
            raise _invalid("A part of the form has no end.")
        if found := _NAME.search(data, begin, head):
            yield Field(found[1].decode(errors="replace"), head + 4, at)
        at += 2
    raise _invalid(f"The form has more than {_MOST_PARTS} parts.")


def value_of(data: bytes, boundary: bytes, name: str) -> str | None:
    """The last field of this name, where there are several."""
    values = [data[one.start : one.end] for one in fields(data, boundary) if one.name == name]
    return values[-1].decode(errors="replace") if values else None


def with_value(data: bytes, boundary: bytes, name: str, value: str) -> bytes:
    for one in reversed([one for one in fields(data, boundary) if one.name == name]):
        data = data[: one.start] + value.encode() + data[one.end :]
    return data


def _invalid(message: str) -> InvalidField:
    return InvalidField(message, param=None, code="invalid_form")
