"""Sends replies as the server-sent events of any dialect."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Protocol

from shared.protocol import Delta

KEEP_ALIVE = b": keep-alive\n\n"  # a comment, which event readers skip


def idle_comment(waiting: str) -> bytes:
    """Tells whoever looks at the stream why nothing comes; nothing where that is not known."""
    return f": {waiting}\n\n".encode() if waiting else b""


class Events(Protocol):
    """Renders one dialect's events: for a batch of deltas, for a silence, and after the last delta."""

    def render(self, batch: Sequence[Delta]) -> bytes: ...
    def idle(self) -> bytes: ...
    def end(self) -> bytes: ...


async def server_sent(
    events: Events, replies: AsyncIterable[list[Delta]], waiting: Callable[[], str] = lambda: ""
) -> AsyncIterator[bytes]:
    """Joins all events of a batch to one ``bytes``, which becomes one write. ``waiting``: for what, in words."""
    async for batch in replies:
        if not batch:
            yield idle_comment(waiting()) + events.idle()
        elif data := events.render(batch):
            yield data
    yield events.end()
