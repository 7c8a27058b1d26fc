"""What every client of an answer needs: HTTP/1.1 framing and server-sent events, out of bytes however they were cut.

All clients of the tests and of the benchmarks read with these. An event's JSON is parsed when it is asked for: with 128
streams on the machine that also serves, each microsecond is taken from the server.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

HOST = "127.0.0.1"
DONE = b"[DONE]"
CHAT = "/v1/chat/completions"
READ = 1 << 16  # bytes


# ---------------------------------------------------------------- server-sent events


class Event(NamedTuple):
    """``name`` and ``id`` are empty where the server gave none."""

    name: str
    data: bytes
    id: str = ""

    def json(self) -> Any:
        return json.loads(self.data)


class EventReader:
    """Bytes to whole events; of comments only the number is kept. ``rest``: what has come of the next event."""

    def __init__(self) -> None:
        self.comments = 0
        self.rest = b""

    def feed(self, data: bytes) -> list[Event]:
        *blocks, self.rest = (self.rest + data).split(b"\n\n")
        return [event for block in blocks if (event := self._event(block))]

    def _event(self, block: bytes) -> Event | None:
        name, id, data = b"", b"", []
        for line in block.split(b"\n"):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"event:"):
                name = line[6:].strip()
            elif line.startswith(b"id:"):
                id = line[3:].strip()
            elif line.startswith(b":"):
                self.comments += 1
        return Event(name.decode(), b"\n".join(data), id.decode()) if data else None


def events(body: bytes) -> list[Event]:
    """All events of a whole body, which must end with one."""
    reader = EventReader()
    found = reader.feed(body)
    assert not reader.rest, "the body ends in the middle of an event"
    return found


def named(body: bytes) -> list[dict[str, Any]]:
    """The JSON of all events; the name of each must be the ``type`` in it, as Anthropic and Responses have it."""
    found = events(body)
    assert [event.name for event in found] == [event.json()["type"] for event in found]
    return [event.json() for event in found]


def chunks(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON of each event as it comes, without the ``[DONE]`` that ends OpenAI's streams."""
    reader = EventReader()
    for piece in pieces:
        for event in reader.feed(piece):
            if event.data != DONE:
                yield event.json()


# ---------------------------------------------------------------- HTTP/1


def post(port: int, body: Any, path: str = CHAT, host: str = HOST) -> bytes:
    """A request in one write; the server closes behind its answer."""
    content = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}:{port}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Head(NamedTuple):
    """The names of its headers are in lower case."""

    status: int
    headers: dict[str, str]


class Body(Protocol):
    def feed(self, data: bytes) -> bytes: ...


def parse_head(data: bytes) -> Head:
    """``data`` up to and with the empty line. Raises ValueError where it is not HTTP/1."""
    first, *fields = data.decode("latin-1").split("\r\n")
    protocol, status, *_ = first.split(" ")
    if not protocol.startswith("HTTP/1."):
        raise ValueError(f"not HTTP/1: {first!r}")
    pairs = (field.partition(":") for field in fields if field)
    return Head(int(status), {name.lower(): value.strip() for name, _, value in pairs})


def body_of(head: Head) -> Body:
    """mlx_lm.server answers in HTTP/1.0 and ends a body by closing; our api answers in chunks."""
    return Chunked() if "chunked" in head.headers.get("transfer-encoding", "").lower() else Plain()


class Plain:
    """A body that ends with the connection."""

    def feed(self, data: bytes) -> bytes:
        return data


class Chunked:
    """Takes the framing of chunks away."""

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


# ---------------------------------------------------------------- a whole exchange


class Refused(Exception):
    """A status other than 200; ``content`` is the whole body."""

    def __init__(self, head: Head, content: bytes) -> None:
        super().__init__(f"status {head.status}: {content.decode('utf-8', 'replace')[:300]}")
        self.head = head
        self.content = content


async def stream(port: int, body: Any, events: EventReader) -> AsyncGenerator[list[Event]]:
    """Asks for a streamed chat on a connection of its own; the events of each read, as they come.

    Raises Refused, and OSError, EOFError or ValueError where there is no HTTP answer.
    """
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(post(port, body))
        head = parse_head(await reader.readuntil(b"\r\n\r\n"))
        unframed = body_of(head)
        if head.status != 200:
            raise Refused(head, unframed.feed(await reader.read()))
        while data := await reader.read(READ):
            yield events.feed(unframed.feed(data))
    finally:
        writer.close()
