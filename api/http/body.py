"""Reads a request's body within bounds of time, size and the memory of all bodies.

Rule 1: a body has ``body_timeout`` seconds, and one second more for each SLOWEST bytes that came.
Rule 2: bodies that are not parsed yet hold at most ``bodies_bytes`` together. Above that, the body that has been
arriving longest is evicted; a body that arrives at once is never refused for a slow one.
Rule 3: a compressed body is unpacked off the event loop, and to at most ``max_body_bytes``.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from api.http.errors import RequestError
from api.http.side_thread import in_side_thread
from shared.settings import PREFIX, Settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

PARSED = "mlx_server.parsed"  # an ASGI extension: called when the body is parsed
SLOWEST = 128 << 10  # bytes a second
GRACE = 1.0  # seconds in which an arriving body is not evicted
DISCARD_TIME = 30.0  # seconds
UNPACKED = ("gzip", "deflate")
RETRY_AFTER = 5


class ClientDisconnected(Exception):
    pass


class Bodies:
    """The bytes that the bodies of one process hold."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.total = 0
        self._arriving: dict[Body, float] = {}  # when each began, in that order

    def begin(self, body: "Body", now: float) -> None:
        self._arriving[body] = now

    def arrived(self, body: "Body") -> None:
        """The body is complete, or it was given up."""
        self._arriving.pop(body, None)

    def grow(self, body: "Body", size: int, now: float) -> None:
        """Raises RequestError 503 when no other body can be evicted for it."""
        body.size += size
        self.total += size
        while self.total > self.settings.bodies_bytes:
            oldest = next((one for one, since in self._arriving.items() if now - since > GRACE), body)
            self.free(oldest)
            if oldest is body:
                raise no_room()
            oldest.evict()

    def free(self, body: "Body") -> None:
        self.arrived(body)
        self.total -= body.size
        body.size = 0


class Body:
    def __init__(self, bodies: Bodies, headers: Mapping[bytes, bytes], receive: Receive) -> None:
        self.size = 0
        declared = headers.get(b"content-length", b"0") or b"0"
        self.whole = declared == b"0" and b"transfer-encoding" not in headers
        self._bodies = bodies
        self._declared = declared
        self._receive = receive
        self._evicted = self._late = False
        self._deadline = asyncio.timeout(None)
        self._max = bodies.settings.max_body_bytes
        encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
        self._encoding = {"identity": "", "x-gzip": "gzip"}.get(encoding, encoding)

    def check(self) -> None:
        """Checks the body's headers. Raises RequestError."""
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
        unpacked = await in_side_thread(unpack, data, self._max)
        if unpacked is None:
            raise self._too_large()
        self._bodies.grow(self, len(unpacked) - len(data), asyncio.get_running_loop().time())
        return unpacked

    def release(self) -> None:
        """Its bytes count no longer."""
        self._bodies.free(self)

    def evict(self) -> None:
        self._evicted = True
        self._deadline.reschedule(asyncio.get_running_loop().time())

    async def discard(self) -> None:
        """Reads the rest of a refused body, as a client that is still sending may not read its answer before."""
        self.release()
        if self._late:
            return
        try:
            async with asyncio.timeout(DISCARD_TIME):
                while not self.whole:
                    await self._piece()
        except (TimeoutError, ClientDisconnected):
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
                    self._bodies.grow(self, len(data) - self.size, loop.time())
                    self._deadline.reschedule(began + patience + len(data) / SLOWEST)
        except TimeoutError:
            self._late = True
            if self._evicted:
                raise no_room() from None
            raise RequestError(
                408, f"The body did not come within {patience:g} s and {SLOWEST} bytes a second."
            ) from None
        finally:
            self._bodies.arrived(self)
        return bytes(data)

    async def _piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
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
    """Unpacks gzip, zlib or raw deflate; None if it is more than ``limit`` bytes. Raises RequestError."""
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
