"""A request's lease of a place at a hosted server: asked of the broker, and given back in the end.

Rule 1: whatever ends the task that took it gives the place back.
Rule 2: a request that no byte has answered gets another place when its server has ended, once.
"""

import asyncio
from hashlib import blake2b

from api.generation.broker_client import BrokerClient
from api.generation.replies import Replies
from api.hosting.passing import Tokens
from shared.hosting import Endpoint
from shared.protocol import Hosted, Place, Start

_NOTICED = 2.0  # seconds until the end of a server is known here, at most


class Lease:
    def __init__(self, broker: BrokerClient, replies: Replies) -> None:
        self._broker = broker
        self._replies = replies
        self._place: Place | None = None
        self._tried_again = False

    @classmethod
    async def take(
        cls, broker: BrokerClient, model: str, endpoint: Endpoint, body: bytes, caller: str
    ) -> "Lease":
        """Returns once there is a place, or after ``first_token_silence`` without one. Raises refusals."""
        digest = blake2b(body, digest_size=16).hexdigest()
        task = Hosted(endpoint=endpoint, size=len(body), digest=digest)
        return cls(broker, await broker.generate(model, [task], caller))

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

    async def place(self) -> Place:
        """As ``next``, however long it takes."""
        while (place := await self.next()) is None:
            pass
        return place

    async def may_try_again(self) -> bool:
        """Whether the server has ended, so that another will have a place."""
        if self._tried_again:
            return False
        self._tried_again = True
        try:
            async with asyncio.timeout(_NOTICED):
                await self._replies.lost.wait()
        except TimeoutError:
            return False
        return True

    def done(self, tokens: Tokens) -> None:
        start = Start(prompt_tokens=tokens.prompt, cached_tokens=min(tokens.cached, tokens.prompt))
        self._broker.done(self._replies, start, tokens.out)
        self._replies.close()

    def give_back(self) -> None:
        """Unused, or after a failure."""
        self._replies.close()
