"""Passes a request to the server of a hosted model, and its answer back: byte for byte but for the model's name.

Rule 1: the server's own answers pass, its errors too, as long as they are in the form of their endpoint; anything else
is one error in the dialect of the client.
Rule 2: after the first byte of an answer nothing is tried again.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from falcon.asgi import Response
from pydantic_core import from_json

from api.generation.event_streams import KEEP_ALIVE, idle_comment
from api.hosting.lease import Lease
from api.hosting.passing import PassingEvents, Tokens, passed_object
from api.hosting.upstream import JSON, Upstream, Upstreams, no_json
from api.http.respond import EVENT_STREAM
from api.http.side_thread import in_side_thread
from shared.errors import EndpointMissing, FailureFromElsewhere, HostedServerFailed
from shared.hosting import PATHS, Endpoint
from shared.protocol import Failure, Place

_PASSED_BACK = ("content-type", "retry-after", "content-disposition")


@dataclass
class Passing:
    """A request on its way. ``model``: the name that the client asked for; ``named``: the body with another one."""

    upstreams: Upstreams
    endpoint: Endpoint
    model: str
    named: Callable[[str], Awaitable[bytes]]
    headers: Mapping[str, str]
    tokens: Tokens = field(default_factory=Tokens)

    async def answer(self, resp: Response, lease: Lease, place: Place | None) -> None:
        """``place`` None: it comes so late that the head of a stream goes out before."""
        if place is None:
            resp.content_type = EVENT_STREAM
            resp.stream = self._stream_later(lease)
            return
        upstream = await lease.ask(place, self._send)
        if upstream.is_events:
            resp.set_header("x-accel-buffering", "no")  # nginx would buffer the events
            resp.cache_control = ["no-cache", "no-transform"]
            resp.stream = self._events(lease, upstream)
        elif upstream.status < 400 and upstream.kind != JSON:
            resp.stream = self._bytes(lease, upstream)
        else:
            data = await upstream.whole()
            try:
                resp.data = await in_side_thread(passed_object, data, self.model, self.tokens)
            except ValueError:
                raise no_json(self.model, upstream, data) from None
            lease.done(self.tokens)
        resp.status = upstream.status
        for name in _PASSED_BACK:
            if name in upstream.headers:
                resp.set_header(name, upstream.headers[name])

    async def _send(self, place: Place) -> Upstream:
        body = await self.named(place.model)
        return await self.upstreams.ask(self.model, place.url + PATHS[self.endpoint], body, self.headers)

    async def _events(self, lease: Lease, upstream: Upstream) -> AsyncIterator[bytes]:
        passing, piece = PassingEvents(self.endpoint, self.model, self.tokens), upstream.first
        while piece:
            if out := passing.take(piece):
                yield out
            piece = await upstream.piece()
        if out := passing.end():
            yield out
        if not passing.complete:
            raise HostedServerFailed(f"The server of {self.model!r} ended its answer before it was whole.")
        lease.done(self.tokens)

    async def _bytes(self, lease: Lease, upstream: Upstream) -> AsyncIterator[bytes]:
        piece = upstream.first
        while piece:
            yield piece
            piece = await upstream.piece()
        lease.done(self.tokens)

    async def _stream_later(self, lease: Lease) -> AsyncIterator[bytes]:
        """The head is out already: what waits is told in comments, and an error becomes an event."""
        place: Place | None = None
        while place is None:
            if (place := await lease.next()) is None:
                yield idle_comment(lease.waiting) + KEEP_ALIVE
        if self.endpoint not in place.endpoints:
            raise missing(self.model, self.endpoint, place)
        upstream = await lease.ask(place, self._send)
        if not upstream.is_events:
            data = await upstream.whole()
            raise told_error(self.model, upstream, data)
        async for out in self._events(lease, upstream):
            yield out


def told_error(model: str, upstream: Upstream, data: bytes) -> FailureFromElsewhere | HostedServerFailed:
    """What a server says in place of the stream that it was asked for."""
    try:
        said = from_json(data)
        error = said.get("error", said)
        message = error if isinstance(error, str) else str(error.get("message") or error)
    except (ValueError, AttributeError):
        return no_json(model, upstream, data)
    status = upstream.status if upstream.status >= 400 else HostedServerFailed.status
    code = HostedServerFailed.code if status >= 500 else "invalid_value"
    return FailureFromElsewhere(Failure(status=status, code=code, message=message[:2000]))


def missing(model: str, endpoint: Endpoint, place: Place) -> EndpointMissing:
    there = ", ".join(PATHS[one] for one in place.endpoints)
    return EndpointMissing(
        f"The server of {model!r} has no {PATHS[endpoint]}; it has {there}.", param="model"
    )
