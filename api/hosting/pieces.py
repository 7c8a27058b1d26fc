"""What a hosted server sends, read by a task of its own, so that its reader can say something in a silence.

Rule 1: what has come since the last look is one piece.
Rule 2: beyond MOST bytes that nobody has taken, nothing more is read.
"""

import asyncio
from collections.abc import Awaitable, Callable

MOST = 1 << 20


class Pieces:
    """``read``: the next piece; empty at the end. ``every``: seconds of silence until ``next`` says so."""

    def __init__(self, read: Callable[[], Awaitable[bytes]], every: float) -> None:
        self._read = read
        self._every = every
        self._loop = asyncio.get_running_loop()
        self._come: list[bytes] = []
        self._bytes = 0
        self._ended = False
        self._failure: Exception | None = None
        self._reader: asyncio.Future[None] | None = None  # waits for a piece
        self._room = asyncio.Event()
        self._task = self._loop.create_task(self._pump())

    async def next(self) -> bytes | None:
        """None: nothing came for so long; empty: the end. Raises what ``read`` raised, behind what came before it."""
        if not self._come and not self._ended:
            self._reader = self._loop.create_future()
            silence = self._loop.call_later(self._every, self._wake)
            try:
                await self._reader
            finally:
                silence.cancel()
                self._reader = None
        if self._come:
            piece, self._come, self._bytes = b"".join(self._come), [], 0
            self._room.set()
            return piece
        if self._failure:
            raise self._failure
        return b"" if self._ended else None

    def close(self) -> None:
        """May be called twice."""
        self._task.cancel()

    async def _pump(self) -> None:
        try:
            while piece := await self._read():
                self._come.append(piece)
                self._bytes += len(piece)
                self._wake()
                if self._bytes >= MOST:
                    self._room.clear()
                    await self._room.wait()
        except Exception as failure:  # noqa: BLE001  whoever takes the pieces gets it
            self._failure = failure
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._reader and not self._reader.done():
            self._reader.set_result(None)
