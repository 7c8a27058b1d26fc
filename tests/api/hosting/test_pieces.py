"""What a server sends, with a word for each silence."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from api.hosting.pieces import MOST, Pieces

Read = Callable[[], Awaitable[bytes]]


def reads(*said: bytes | Exception) -> Read:
    left = list(said)

    async def read() -> bytes:
        piece = left.pop(0) if left else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    return read


async def taken(read: Read) -> list[bytes | None]:
    pieces, found = Pieces(read, every=60.0), []
    while piece := await pieces.next():
        found.append(piece)
    pieces.close()
    return [*found, piece]


def test_what_has_come_is_one_piece_and_an_empty_one_is_the_end() -> None:
    assert asyncio.run(taken(reads(b"a", b"b", b"c"))) == [b"abc", b""]
    assert asyncio.run(taken(reads())) == [b""]


def test_a_failure_is_raised_behind_what_came_before_it() -> None:
    async def run() -> None:
        pieces = Pieces(reads(b"a", ValueError("broken")), every=60.0)
        assert await pieces.next() == b"a"
        with pytest.raises(ValueError, match="broken"):
            await pieces.next()
        pieces.close()

    asyncio.run(run())


def test_each_silence_is_told_and_loses_nothing() -> None:
    async def run() -> None:
        gate = asyncio.Event()
        rest = reads(b"a")

        async def read() -> bytes:
            await gate.wait()
            return await rest()

        pieces = Pieces(read, every=0.001)
        assert await pieces.next() is None
        assert await pieces.next() is None
        gate.set()
        while (piece := await pieces.next()) is None:
            pass
        assert piece == b"a"
        assert await pieces.next() == b""
        pieces.close()

    asyncio.run(run())


def test_no_more_is_read_than_somebody_takes() -> None:
    async def run() -> None:
        count = 0

        async def read() -> bytes:
            nonlocal count
            count += 1
            return b"x" * (MOST // 4)

        pieces = Pieces(read, every=60.0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert count == 4
        assert len(await pieces.next() or b"") == MOST
        for _ in range(100):
            await asyncio.sleep(0)
        assert count == 8
        pieces.close()

    asyncio.run(run())
