"""Sends replies as the server-sent events of any dialect."""

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Protocol

from shared.protocol import Delta

KEEP_ALIVE = b": keep-alive\n\n"  # a comment, which event readers skip


class Events(Protocol):
    """Renders one dialect's events: for a batch of deltas, for a silence, and after the last delta."""

    def render(self, batch: Sequence[Delta]) -> bytes: ...
    def idle(self) -> bytes: ...
    def end(self) -> bytes: ...


async def server_sent(events: Events, replies: AsyncIterable[list[Delta]]) -> AsyncIterator[bytes]:
    """Joins all events of a batch to one ``bytes``, which becomes one write."""
    async for batch in replies:
        if not batch:
            yield events.idle()
        elif data := events.render(batch):
            yield data
    yield events.end()
