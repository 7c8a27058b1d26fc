"""A client of either server: one request, one connection, raw sockets."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import sse
from benchmarks.failures import Failed
from benchmarks.http1 import Body, body_of, parse_head, post
from benchmarks.replies import Reply

READ = 1 << 16
PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Address:
    port: int
    host: str = "127.0.0.1"


async def complete(
    address: Address,
    body: dict[str, Any],
    *,
    keep_text: bool = False,
    on_first: Callable[[], None] | None = None,
) -> Reply:
    """Streams a chat completion to its end; ``on_first`` is called with its first text. Raises Failed."""
    reply = Reply(sent=time.perf_counter())
    reading = _Reading(reply, keep_text, on_first)
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            writer.write(post(address.host, address.port, PATH, body))
            await _read_answer(reader, reading)
        finally:
            writer.close()
    except (OSError, EOFError, ValueError) as error:
        raise Failed(f"{type(error).__name__}: {error}") from error
    return reply


async def status(address: Address, path: str) -> int | None:
    """Of a GET; None when nobody answers."""
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return None
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {address.host}\r\n\r\n".encode())
        return parse_head(await reader.readuntil(b"\r\n\r\n")).status
    except (OSError, EOFError, ValueError):
        return None
    finally:
        writer.close()


@dataclass
class _Reading:
    """A reply on its way."""

    reply: Reply
    keep_text: bool
    on_first: Callable[[], None] | None

    def take(self, event: bytes, now: float) -> None:
        if sse.gives_text(event):
            self._take_text(event, now)
        elif usage := sse.usage_of(event):
            self.reply.completion_tokens = usage["completion_tokens"]
            self.reply.prompt_tokens = usage["prompt_tokens"]
            self.reply.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        elif error := sse.error_of(event):
            raise Failed(error)

    def _take_text(self, event: bytes, now: float) -> None:
        arrivals = self.reply.arrivals
        if not arrivals and self.on_first:
            self.on_first()
        if not arrivals or arrivals[-1] != now:
            arrivals.append(now)
        if self.keep_text:
            self.reply.text += sse.text_of(event)


async def _read_answer(reader: asyncio.StreamReader, reading: _Reading) -> None:
    head = parse_head(await reader.readuntil(b"\r\n\r\n"))
    body = body_of(head)
    if head.status != 200:
        content = body.feed(await reader.read())
        raise Failed(f"status {head.status}: {content.decode('utf-8', 'replace')[:300]}")
    if not await _read_events(reader, body, reading):
        raise Failed(f"the stream broke off after {len(reading.reply.arrivals)} pieces of text")


async def _read_events(reader: asyncio.StreamReader, body: Body, reading: _Reading) -> bool:
    """Whether the stream came to its end."""
    events = sse.EventReader()
    while data := await reader.read(READ):
        now = time.perf_counter()
        for event in events.feed(body.feed(data)):
            if event == sse.DONE:
                return True
            reading.take(event, now)
    return False
