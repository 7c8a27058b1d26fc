"""Writes an answer as one JSON object or as an event stream."""

from collections.abc import AsyncIterator

from falcon.asgi import Response
from pydantic import BaseModel
from pydantic_core import to_json

EVENT_STREAM = "text/event-stream"
_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))


def one_line(data: bytes) -> bytes:
    """Escapes the characters that line readers take for a line's end. In JSON they occur in strings only."""
    for raw, escaped in _LINE_ENDS:
        data = data.replace(raw, escaped)
    return data


def respond_json(resp: Response, model: BaseModel, *, exclude_unset: bool = False) -> None:
    _json(resp, model.model_dump_json(exclude_unset=exclude_unset).encode())


def respond_with(resp: Response, data: bytes) -> None:
    """The same of what is JSON already."""
    _json(resp, data)


def respond_object(resp: Response, fields: object) -> None:
    """As ``respond_json``, for plain values."""
    _json(resp, to_json(fields))


def respond_stream(resp: Response, events: AsyncIterator[bytes]) -> None:
    resp.content_type = EVENT_STREAM
    resp.cache_control = ["no-cache", "no-transform"]
    resp.set_header("x-accel-buffering", "no")  # nginx would buffer the events
    resp.stream = _lines(events)


def _json(resp: Response, data: bytes) -> None:
    resp.content_type = "application/json"
    resp.data = one_line(data)


async def _lines(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for data in events:
        yield one_line(data)
