"""A request's body: read within a time, within a size, and within what all bodies together may hold.

Rule 1: a body has ``body_timeout`` seconds, and so many more as its bytes take at ``SLOWEST``; one that falls behind
is given up, however steadily it drips.
Rule 2: when all bodies that wait to be parsed hold more than ``bodies_bytes``, the one that has been coming longest
gives way; what comes in one go is never refused for what drips.
Rule 3: a compressed body is unpacked beside the loop, and never to more than ``max_body_bytes``.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from api.http.errors import RequestError
from api.http.side_thread import beside
from shared.settings import PREFIX, Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

PARSED = "mlx_server.parsed"  # an ASGI extension: called when nobody holds the body any more
SLOWEST = 128 << 10  # bytes a second
GRACE = 1.0  # seconds in which a body that is coming gives way to none
THROW_AWAY = 30.0  # seconds of a refused body
UNPACKED = ("gzip", "deflate")
RETRY_AFTER = 5


class ClientLeft(Exception):
    pass


class Bodies:
    """What the bodies of one process hold, in bytes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.held = 0
        self._coming: dict[Body, float] = {}  # since when, the first first

    def begin(self, body: "Body", now: float) -> None:
        self._coming[body] = now

    def come(self, body: "Body") -> None:
        """It is whole, or given up."""
        self._coming.pop(body, None)

    def grow(self, body: "Body", size: int, now: float) -> None:
        """Raises RequestError 503 when there is no room, and none that could give way."""
        body.holds += size
        self.held += size
        while self.held > self.settings.bodies_bytes:
            oldest = next((one for one, since in self._coming.items() if now - since > GRACE), body)
            self.let_go(oldest)
            if oldest is body:
                raise no_room()
            oldest.give_way()

    def let_go(self, body: "Body") -> None:
        self.come(body)
        self.held -= body.holds
        body.holds = 0


class Body:
    def __init__(self, bodies: Bodies, headers: Mapping[bytes, bytes], receive: Receive) -> None:
        self.holds = 0
        declared = headers.get(b"content-length", b"0") or b"0"
        self.whole = declared == b"0" and b"transfer-encoding" not in headers
        self._bodies = bodies
        self._declared = declared
        self._receive = receive
        self._gave_way = self._late = False
        self._deadline = asyncio.timeout(None)
        self._max = bodies.settings.max_body_bytes
        encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
        self._encoding = {"identity": "", "x-gzip": "gzip"}.get(encoding, encoding)

    def check(self) -> None:
        """What is known before it comes. Raises RequestError."""
        if self._encoding and self._encoding not in UNPACKED:
            taken = ", ".join(UNPACKED)
            raise RequestError(
                415,
                f"The content encoding {self._encoding[:32]!a} is not taken; send {taken}, or none.",
                {"accept-encoding": taken},
            )
        if self._declared.isdigit() and int(self._declared) > self._max:
            raise self._too_large()

    async def read(self) -> bytes:
        data = await self._all()
        if not self._encoding or not data:
            return data
        unpacked = await beside(unpack, data, self._max)
        if unpacked is None:
            raise self._too_large()
        self._bodies.grow(self, len(unpacked) - len(data), asyncio.get_running_loop().time())
        return unpacked

    def release(self) -> None:
        """Nobody holds it any more."""
        self._bodies.let_go(self)

    def give_way(self) -> None:
        self._gave_way = True
        self._deadline.reschedule(asyncio.get_running_loop().time())

    async def throw_away(self) -> None:
        """So that a client which is still sending can read its answer; one that was too slow had its time."""
        self.release()
        if self._late:
            return
        try:
            async with asyncio.timeout(THROW_AWAY):
                while not self.whole:
                    await self._piece()
        except (TimeoutError, ClientLeft):
            pass

    async def _all(self) -> bytes:
        loop, patience = asyncio.get_running_loop(), self._bodies.settings.body_timeout
        began, data = loop.time(), bytearray()
        self._bodies.begin(self, began)
        try:
            async with asyncio.timeout(patience) as self._deadline:
                while not self.whole:
                    data += await self._piece()
                    if len(data) > self._max:
                        raise self._too_large()
                    self._bodies.grow(self, len(data) - self.holds, loop.time())
                    self._deadline.reschedule(began + patience + len(data) / SLOWEST)
        except TimeoutError:
            self._late = True
            if self._gave_way:
                raise no_room() from None
            raise RequestError(
                408, f"The body did not come within {patience:g} s and {SLOWEST} bytes a second."
            ) from None
        finally:
            self._bodies.come(self)
        return bytes(data)

    async def _piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        self.whole = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    def _too_large(self) -> RequestError:
        return RequestError(
            413, f"The request body is larger than {self._max} bytes ({PREFIX}MAX_BODY_BYTES)."
        )


def no_room() -> RequestError:
    error = RequestError(503, "Too many large requests are being read; try again soon.", code="queue_full")
    error.retry_after = RETRY_AFTER
    return error


def unpack(data: bytes, limit: int) -> bytes | None:
    """gzip, or deflate with or without zlib's head. None: it is more than ``limit`` bytes. Raises RequestError."""
    headless = data[0] & 0x0F != 8 and data[:2] != b"\x1f\x8b"
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS if headless else 32 + zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(data, limit + 1)
    except zlib.error:
        raise RequestError(400, "The request body is not what its Content-Encoding says.") from None
    if len(unpacked) > limit:
        return None
    if not unpacker.eof or unpacker.unused_data:
        raise RequestError(400, "The request body is not what its Content-Encoding says.")
    return unpacked
