"""The replies to one HTTP request, as batches of deltas.

Rule 1: a batch holds everything since the last one; an empty batch means that nothing came for ``keepalive``.
Rule 2: a failure is raised after the deltas that came before it.
Rule 3: a reader that stops reading calls ``close``, which may be called in every state and twice.
"""

import asyncio
from collections.abc import Callable

from shared.errors import ServingError
from shared.protocol import Delta


class Replies:
    def __init__(self, choices: int, keepalive: float, on_close: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._open_choices = choices
        self._keepalive = keepalive
        self._on_close = on_close
        self._arrived: list[Delta] = []
        self._failure: ServingError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._last_batch = self._loop.time()
        self._keepalive_timer = self._loop.call_later(keepalive, self._keepalive_due)
        self._closed = False
        self.waiting = ""  # in words, while the request is in a queue
        self.lost = (
            asyncio.Event()
        )  # from the loss of a worker that had one of the requests until another has it

    # ---- the side of the broker client

    def put(self, delta: Delta) -> None:
        if delta.finish is not None:
            self._open_choices -= 1
        self._arrived.append(delta)
        self.waiting = ""
        if delta.place:
            self.lost.clear()
        self._wake()

    def fail(self, failure: ServingError) -> None:
        self._failure = self._failure or failure
        self._wake()

    @property
    def unread(self) -> int:
        """The number of tokens that the client has not read."""
        return sum(len(delta.ids) for delta in self._arrived)

    # ---- the side of the resource

    async def first(self, within: float) -> None:
        """Returns when there is something to send, or after ``within`` seconds. Raises a refusal."""
        try:
            async with asyncio.timeout(within):
                while not self._arrived and self._failure is None:
                    await self._wait()
        except TimeoutError:
            return
        if self._failure is not None and not self._arrived:
            raise self._failure

    def __aiter__(self) -> "Replies":
        return self

    async def __anext__(self) -> list[Delta]:
        if not self._arrived and self._failure is None:
            if not self._open_choices:
                raise StopAsyncIteration
            await self._wait()
        self._last_batch = self._loop.time()
        if self._arrived:
            batch, self._arrived = self._arrived, []
            return batch
        if self._failure is not None:
            raise self._failure
        return []

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._keepalive_timer.cancel()
            self._on_close()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _keepalive_due(self) -> None:
        """One timer for each request, which reschedules itself, instead of one for each token."""
        due = self._last_batch + self._keepalive
        if self._loop.time() >= due:
            self._wake()
            due = self._loop.time() + self._keepalive
        self._keepalive_timer = self._loop.call_at(due, self._keepalive_due)
