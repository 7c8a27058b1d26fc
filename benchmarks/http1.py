"""Just enough HTTP/1 to read a streamed answer: the head, and a body that may come in chunks. Pure.

mlx_lm.server answers in HTTP/1.0 and ends a body by closing; our api answers in HTTP/1.1 with chunks.
"""

import json
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Head:
    status: int
    chunked: bool


class Body(Protocol):
    def feed(self, data: bytes) -> bytes: ...


def post(host: str, port: int, path: str, body: dict[str, Any]) -> bytes:
    """A request of one write."""
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}:{port}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def parse_head(data: bytes) -> Head:
    """``data`` up to and with the empty line. Raises ValueError if it is not HTTP."""
    first, *fields = data.decode("latin-1").split("\r\n")
    protocol, status, *_ = first.split(" ")
    if not protocol.startswith("HTTP/1."):
        raise ValueError(f"not HTTP/1: {first!r}")
    pairs = (field.lower().partition(":") for field in fields)
    chunked = any(name == "transfer-encoding" and "chunked" in value for name, _, value in pairs)
    return Head(int(status), chunked)


def body_of(head: Head) -> Body:
    return Chunked() if head.chunked else Plain()


class Plain:
    """A body that ends with the connection."""

    def feed(self, data: bytes) -> bytes:
        return data


class Chunked:
    """Takes the framing of chunks away, wherever the network cut it."""

    def __init__(self) -> None:
        self._held = b""
        self._left = 0  # bytes of the current chunk that have not come, its line end included

    def feed(self, data: bytes) -> bytes:
        data, self._held = self._held + data, b""
        out = []
        while data:
            if self._left:
                taken, data = data[: self._left], data[self._left :]
                out.append(taken[: max(0, self._left - 2)])
                self._left -= len(taken)
                continue
            size, found, rest = data.partition(b"\r\n")
            if not found:
                self._held = data
                break
            self._left, data = int(size.split(b";")[0], 16) + 2, rest
        return b"".join(out)
