"""Answers of hosted servers as replies: for dialects that a server lacks, translated to its chat completions.

Rule 1: after the first delta nothing is tried again; until then once, when the server has ended.
"""

import asyncio
import logging

from api.generation.broker_client import BrokerClient
from api.generation.replies import Replies
from api.hosting.chunks import BadChunk, Chunks
from api.hosting.lease import Lease
from api.hosting.passing import Tokens
from api.hosting.proxy import missing, told_error
from api.hosting.translation import chat_request
from api.hosting.upstream import JSON, Upstream, Upstreams
from shared.errors import HostedServerFailed, ServingError
from shared.hosting import PATHS
from shared.protocol import Generation, Place
from shared.settings import Settings

log = logging.getLogger(__name__)


class Translated:
    """One request. A task of its own feeds the replies, and ends with whoever reads them."""

    def __init__(
        self,
        broker: BrokerClient,
        upstreams: Upstreams,
        settings: Settings,
        model: str,
        generation: Generation,
        caller: str,
    ) -> None:
        self._broker = broker
        self._upstreams = upstreams
        self._silence = settings.first_token_silence
        self._model = model
        self._generation = generation
        self._caller = caller
        self._tokens = Tokens()
        self._replies = Replies(1, settings.keepalive, self._stop)
        self._task: asyncio.Task[None]

    async def replies(self) -> Replies:
        """Returns at the first delta, or after ``first_token_silence`` without one. Raises refusals."""
        chat_request(self._generation, "")  # what cannot be asked is refused before it waits
        self._task = asyncio.create_task(self._feed())
        owner = asyncio.current_task()
        assert owner is not None
        owner.add_done_callback(lambda _: self._replies.close())
        await self._replies.first(self._silence)
        return self._replies

    def _stop(self) -> None:
        self._task.cancel()

    async def _feed(self) -> None:
        try:
            body = chat_request(self._generation, self._model)
            lease = await Lease.take(self._broker, self._model, "chat", body, self._caller)
            await self._read(lease, await self._asked(lease))
            lease.done(self._tokens)
        except ServingError as error:
            self._replies.fail(error)
        except Exception:
            log.exception("the answer of %s could not be translated", self._model)
            self._replies.fail(
                HostedServerFailed(f"The answer of the server of {self._model!r} cannot be read.")
            )

    async def _asked(self, lease: Lease) -> Upstream:
        while (place := await lease.next()) is None:
            self._wait(lease.waiting)
        upstream = await lease.ask(place, self._send, self._wait)
        if not upstream.is_events:
            raise told_error(self._model, upstream, await upstream.whole())
        return upstream

    async def _send(self, place: Place) -> Upstream:
        if "chat" not in place.endpoints:
            raise missing(self._model, "chat", place)
        body, url = chat_request(self._generation, place.model), place.url + PATHS["chat"]
        return await self._upstreams.ask(self._model, url, body, {"content-type": JSON})

    def _wait(self, queue: str) -> None:
        self._replies.waiting = queue

    async def _read(self, lease: Lease, upstream: Upstream) -> None:
        chunks, piece = Chunks(self._tokens), upstream.first
        try:
            while True:
                for delta in chunks.take(piece or b"\n"):
                    self._replies.put(delta)
                lease.passes(chunks.texts)
                if not piece:
                    break
                piece = await upstream.piece()
            self._replies.put(chunks.end())
        except BadChunk as error:
            raise HostedServerFailed(f"The server of {self._model!r} failed in its answer: {error}") from None
        finally:
            await upstream.close()
