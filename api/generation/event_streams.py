"""Replies as the server-sent events of one dialect, whichever it is."""

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Protocol

from shared.protocol import Delta

KEEP_ALIVE = b": keep-alive\n\n"  # a comment, which every reader of events skips


class Events(Protocol):
    """A dialect's events: for what came, for a silence, and behind the last delta."""

    def render(self, batch: Sequence[Delta]) -> bytes: ...
    def idle(self) -> bytes: ...
    def end(self) -> bytes: ...


async def server_sent(events: Events, replies: AsyncIterable[list[Delta]]) -> AsyncIterator[bytes]:
    """One ``bytes`` for all that waits, so that it becomes one write."""
    async for batch in replies:
        if not batch:
            yield events.idle()
        elif data := events.render(batch):
            yield data
    yield events.end()
