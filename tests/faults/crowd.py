"""Hundreds of clients at once, on one thread: what each of them got, as ``tests.faults.client`` would have seen it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from tests.faults.client import MARKER, Answer

T = TypeVar("T")

HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close"


def asked(seed: int, max_tokens: int, model: str = "a") -> Answer:
    return Answer(model, f"{MARKER} ", seed, max_tokens)


async def ask(port: int, answer: Answer) -> Answer:
    began = time.monotonic()
    try:
        async with asyncio.timeout(120):
            await _exchange(port, answer)
    except (OSError, EOFError, TimeoutError) as error:
        answer.broken = repr(error)
    answer.took = time.monotonic() - began
    return answer


async def ask_until_served(port: int, seed: int, max_tokens: int) -> Answer:
    """Again at once whenever it is refused, as bad clients do."""
    while (answer := await ask(port, asked(seed, max_tokens))).status == 503:
        pass
    return answer


def together(calls: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    async def all_of_them() -> list[T]:
        return list(await asyncio.gather(*(call() for call in calls)))

    return asyncio.run(all_of_them())


async def _exchange(port: int, answer: Answer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps(answer.body).encode()
        writer.write(f"{HEAD}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        await _read(reader, answer)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, answer: Answer) -> None:
    """Chunked or not: chunk sizes are lines that say nothing."""
    status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    answer.status = int(status.split()[1])
    answer.headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in headers if line)}
    if answer.status != 200:
        answer.errors.append(json.loads(await reader.read())["error"])
        return
    while line := await reader.readline():
        answer.read(line.decode().rstrip("\r\n"))
