"""The two forms of an answer: one JSON object, or an event stream."""

from collections.abc import AsyncIterator

from falcon.asgi import Response
from pydantic import BaseModel

EVENT_STREAM = "text/event-stream"


def respond_json(resp: Response, model: BaseModel, *, exclude_unset: bool = False) -> None:
    resp.content_type = "application/json"
    resp.data = model.model_dump_json(exclude_unset=exclude_unset).encode()


def respond_stream(resp: Response, events: AsyncIterator[bytes]) -> None:
    resp.content_type = EVENT_STREAM
    resp.cache_control = ["no-cache"]
    resp.stream = events
