"""Passes a request to the server of a hosted model, and its answer back: byte for byte but for the model's name.

Rule 1: the server's own answers pass, its errors too, as long as they are in the form of their endpoint; anything else
is one error in the dialect of the client.
Rule 2: after the first byte of an answer nothing is tried again.
Rule 3: a stream on which nothing passes is told so by comments, between two events and before the first.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from falcon.asgi import Response
from pydantic_core import from_json

from api.generation.event_streams import KEEP_ALIVE, idle_comment
from api.hosting.lease import Lease
from api.hosting.lines import TooLong
from api.hosting.passing import PassingEvents, Tokens, passed_object
from api.hosting.pieces import Pieces
from api.hosting.upstream import JSON, Upstream, Upstreams, no_json
from api.http.respond import EVENT_STREAM
from api.http.side_thread import in_side_thread
from shared.errors import EndpointMissing, FailureFromElsewhere, HostedServerFailed
from shared.hosting import PATHS, Endpoint
from shared.protocol import Failure, Place

_PASSED_BACK = ("retry-after", "content-disposition")
_OF_ANY_KIND: tuple[Endpoint, ...] = ("audio/speech", "audio/transcriptions")
"""Endpoints whose answers may be neither JSON nor events."""

Translation = Callable[[Response], Awaitable[None]]
"""Answers a request of a dialect that its server turned out to lack."""


@dataclass(frozen=True)
class Patience:
    """Seconds. ``first``: until the head of a stream goes out before its answer; ``comments``: between two of them."""

    first: float
    comments: float


@dataclass
class Passing:
    """A request on its way. ``model``: the name that the client asked for; ``named``: the body with another one."""

    upstreams: Upstreams
    endpoint: Endpoint
    model: str
    named: Callable[[str], Awaitable[bytes]]
    headers: Mapping[str, str]
    streams: bool
    patience: Patience
    tokens: Tokens = field(default_factory=Tokens)
    _owner: "asyncio.Task[Any] | None" = field(default_factory=asyncio.current_task)

    async def answer(
        self, resp: Response, lease: Lease, place: Place | None, translated: Translation | None
    ) -> None:
        """``place`` None: it comes so late that the head of a stream goes out before.

        ``translated``: what answers if the server lacks the endpoint.
        """
        if not self.streams:
            assert place
            await self._answer(resp, lease, await lease.ask(place, self._send))
            return
        asking = asyncio.ensure_future(self._asked(lease, place))
        assert self._owner
        self._owner.add_done_callback(lambda _: asking.cancel())
        if place and (await asyncio.wait([asking], timeout=self.patience.first))[0]:
            await self._answer(resp, lease, asking.result())
            return
        _as_events(resp)
        resp.stream = self._stream_later(lease, asking, translated)

    async def _answer(self, resp: Response, lease: Lease, upstream: Upstream) -> None:
        kept = self.endpoint in _OF_ANY_KIND
        if upstream.is_events and (self.streams or kept):
            _as_events(resp)
            resp.stream = self._events(lease, upstream)
        elif upstream.status < 400 and upstream.kind != JSON and kept:
            resp.content_type = upstream.headers.get("content-type", "application/octet-stream")
            resp.stream = self._bytes(lease, upstream)
        else:
            data = await upstream.whole()
            if upstream.status < 400 and self.streams and not kept:
                raise told_error(self.model, upstream, data)
            try:
                resp.data = await in_side_thread(passed_object, data, self.model, self.tokens)
            except ValueError:
                raise no_json(self.model, upstream, data) from None
            resp.content_type = JSON
            lease.done(self.tokens)
        resp.status = upstream.status
        for name in _PASSED_BACK:
            if name in upstream.headers:
                resp.set_header(name, upstream.headers[name])

    async def _asked(self, lease: Lease, place: Place | None) -> Upstream:
        """Raises _Lacks."""
        while place is None:
            place = await lease.next()
        if self.endpoint not in place.endpoints:
            raise _Lacks(place)
        return await lease.ask(place, self._send)

    async def _send(self, place: Place) -> Upstream:
        body, url = await self.named(place.model), place.url + PATHS[self.endpoint]
        return await self.upstreams.ask(self.model, url, body, self.headers, self._owner)

    async def _events(self, lease: Lease, upstream: Upstream) -> AsyncIterator[bytes]:
        passing = PassingEvents(self.endpoint, self.model, self.tokens)
        piece: bytes | None = upstream.first
        pieces = Pieces(upstream.piece, self.patience.comments)
        try:
            while piece != b"":
                if piece is None:
                    if passing.between:
                        yield KEEP_ALIVE
                elif out := passing.take(piece):
                    lease.passes(passing.texts)
                    yield out
                piece = await pieces.next()
            if out := passing.end():
                yield out
        except TooLong:
            raise HostedServerFailed(
                f"The server of {self.model!r} sent an event that is too long."
            ) from None
        finally:
            pieces.close()
        if not passing.complete:
            raise HostedServerFailed(f"The server of {self.model!r} ended its answer before it was whole.")
        lease.done(self.tokens)

    async def _bytes(self, lease: Lease, upstream: Upstream) -> AsyncIterator[bytes]:
        piece = upstream.first
        while piece:
            yield piece
            piece = await upstream.piece()
        lease.done(self.tokens)

    async def _stream_later(
        self, lease: Lease, asking: "asyncio.Future[Upstream]", translated: Translation | None
    ) -> AsyncIterator[bytes]:
        """The head is out already: what waits is told in comments, and an error becomes an event."""
        while not (await asyncio.wait([asking], timeout=self.patience.comments))[0]:
            yield idle_comment(lease.waiting) + KEEP_ALIVE
        try:
            upstream = asking.result()
        except _Lacks as lacks:
            lease.give_back()
            if translated is None:
                raise missing(self.model, self.endpoint, lacks.place) from None
            answer = Response()
            await translated(answer)
            assert answer.stream
            async for out in answer.stream:
                yield out
            return
        if not upstream.is_events:
            data = await upstream.whole()
            raise told_error(self.model, upstream, data)
        async for out in self._events(lease, upstream):
            yield out


class _Lacks(Exception):
    """The server at ``place`` has no such endpoint."""

    def __init__(self, place: Place) -> None:
        self.place = place


def _as_events(resp: Response) -> None:
    resp.content_type = EVENT_STREAM
    resp.set_header("x-accel-buffering", "no")  # nginx would buffer the events
    resp.cache_control = ["no-cache", "no-transform"]


def told_error(model: str, upstream: Upstream, data: bytes) -> FailureFromElsewhere | HostedServerFailed:
    """What a server says in place of the stream that it was asked for."""
    try:
        said = from_json(data)
        error = said.get("error", said)
        message = error if isinstance(error, str) else str(error.get("message") or error)
    except (ValueError, AttributeError):
        return no_json(model, upstream, data)
    if upstream.status < 400 and "error" not in said:
        return HostedServerFailed(f"The server of {model!r} was asked for a stream and answered without one.")
    status = upstream.status if upstream.status >= 400 else HostedServerFailed.status
    code = HostedServerFailed.code if status >= 500 else "invalid_value"
    return FailureFromElsewhere(Failure(status=status, code=code, message=message[:2000]))


def missing(model: str, endpoint: Endpoint, place: Place) -> EndpointMissing:
    there = ", ".join(PATHS[one] for one in place.endpoints)
    return EndpointMissing(
        f"The server of {model!r} has no {PATHS[endpoint]}; it has {there}.", param="model"
    )
