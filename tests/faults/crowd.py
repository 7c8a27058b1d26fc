"""Hundreds of clients at once, on one thread: what each of them got, as ``tests.faults.client`` would have seen it."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from tests.client import Refused, stream
from tests.faults.client import MARKER, Answer

T = TypeVar("T")


def asked(seed: int, max_tokens: int, model: str = "a") -> Answer:
    return Answer(model, f"{MARKER} ", seed, max_tokens)


async def ask(port: int, answer: Answer) -> Answer:
    began = time.monotonic()
    try:
        async with asyncio.timeout(120):
            async for found in stream(port, answer.body, answer.events):
                for event in found:
                    answer.take(event)
        answer.status = 200
    except Refused as refused:
        answer.status, answer.headers = refused.head
        answer.errors.append(json.loads(refused.content)["error"])
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
