"""A request's lease of a place at a hosted server: asked of the broker, and given back in the end.

Rule 1: whatever ends the task that took it gives the place back.
Rule 2: a request that no byte has answered gets another place when its server has ended, once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import blake2b

from api.generation.broker_client import BrokerClient
from api.generation.replies import Replies
from api.hosting.passing import Tokens
from api.hosting.upstream import Upstream
from api.metrics.counters import Watch
from shared.errors import HostedServerFailed, ServingError
from shared.hosting import Endpoint
from shared.protocol import Hosted, Place, Start

NOTICED = 2.0  # seconds until the end of a server is known here, at most


class Lease:
    def __init__(
        self, broker: BrokerClient, replies: Replies, watch: Watch, noticed: float = NOTICED
    ) -> None:
        self._broker = broker
        self._noticed = noticed
        self._replies = replies
        self._watch = watch
        self._place: Place | None = None

    @classmethod
    async def take(
        cls, broker: BrokerClient, model: str, endpoint: Endpoint, body: bytes, caller: str
    ) -> "Lease":
        """Returns once there is a place, or after ``first_token_silence`` without one. Raises refusals."""
        digest = blake2b(body, digest_size=16).hexdigest()
        task = Hosted(endpoint=endpoint, size=len(body), digest=digest)
        watch = broker.watch(model)
        return cls(broker, await broker.generate(model, [task], caller), watch)

    @property
    def waiting(self) -> str:
        return self._replies.waiting

    async def next(self) -> Place | None:
        """Another place than the last; None after a silence of ``keepalive``. Raises what ends the request."""
        async for batch in self._replies:
            places = [delta.place for delta in batch if delta.place and delta.place != self._place]
            if places:
                self._place = places[-1]
                return self._place
            if not batch:
                return None
        raise AssertionError("a lease has no end of its own")

    async def ask(
        self,
        place: Place,
        send: Callable[[Place], Awaitable[Upstream]],
        waits: Callable[[str], None] = lambda queue: None,
    ) -> Upstream:
        """The answer of the server at ``place``, or of the next one. Raises HostedServerFailed.

        ``waits`` is told of the queue, where the next place is waited for.
        """
        try:
            return await send(place)
        except HostedServerFailed:
            if not await self._ended():
                raise
        while (another := await self.next()) is None:
            waits(self.waiting)
        try:
            return await send(another)
        except HostedServerFailed:
            await self._noted()
            raise

    async def _noted(self) -> None:
        """The broker learns what a server's crash was about from the requests that it still has then."""
        with suppress(TimeoutError, ServingError):
            async with asyncio.timeout(self._noticed):
                while await self.next() is None:
                    pass

    async def _ended(self) -> bool:
        """Whether the server has ended, so that another will have a place."""
        try:
            async with asyncio.timeout(self._noticed):
                await self._replies.lost.wait()
        except TimeoutError:
            return False
        return True

    def passes(self, texts: int) -> None:
        """``texts``: how many pieces of text have passed by now; what is measured of them is when."""
        self._watch.passes(texts, asyncio.get_running_loop().time())

    def done(self, tokens: Tokens) -> None:
        start = Start(prompt_tokens=tokens.prompt, cached_tokens=min(tokens.cached, tokens.prompt))
        self._watch.count(start, tokens.out, asyncio.get_running_loop().time())
        self._broker.done(self._replies, start, tokens.out)
        self._replies.close()

    def give_back(self) -> None:
        """Unused, or after a failure."""
        self._replies.close()
