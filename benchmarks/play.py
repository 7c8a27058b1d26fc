"""Plays a plan against a server."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from benchmarks.failures import Failed
from benchmarks.plans import (
    Ask,
    ClosedLoop,
    LatePrompt,
    Plan,
    SecondTurn,
    closed_loop_asks,
    first_turns,
    late_prompt_asks,
    second_turn,
)
from benchmarks.replies import Played, Reply

T = TypeVar("T")


def _nothing() -> None: ...


class Answer(Protocol):
    """One request to its end; ``on_first`` is called with its first text. Raises Failed."""

    def __call__(
        self, ask: Ask, *, keep_text: bool = False, on_first: Callable[[], None] = _nothing
    ) -> Coroutine[Any, Any, Reply]: ...


async def play(plan: Plan, seed: str, answer: Answer) -> Played:
    """Raises Failed as soon as one request fails."""
    match plan:
        case ClosedLoop():
            return await _timed(_in_turns(plan.clients, closed_loop_asks(plan, seed), answer))
        case SecondTurn():
            return await _timed(_second_turns(plan, seed, answer))
        case LatePrompt():
            return await _timed(_late_prompt(plan, seed, answer))
        case _:
            raise Failed("only an engine can play this")


async def _timed(replies: Awaitable[list[Reply]]) -> Played:
    began = time.perf_counter()
    done = await replies
    return Played(time.perf_counter() - began, sum(reply.completion_tokens for reply in done), done)


async def _in_turns(clients: int, asks: list[Ask], answer: Answer) -> list[Reply]:
    left = iter(asks)
    served = await _together(_client(left, answer) for _ in range(clients))
    return [reply for replies in served for reply in replies]


async def _client(left: Iterator[Ask], answer: Answer) -> list[Reply]:
    return [await answer(ask) for ask in left]


async def _second_turns(plan: SecondTurn, seed: str, answer: Answer) -> list[Reply]:
    replies = []
    for first in first_turns(plan, seed):
        told = await answer(first, keep_text=True)
        replies.append(await answer(second_turn(first, told.text)))
    return replies


async def _late_prompt(plan: LatePrompt, seed: str, answer: Answer) -> list[Reply]:
    """The replies that were running, from the moment the long prompt was sent."""
    asks, late = late_prompt_asks(plan, seed)
    begun = [asyncio.Event() for _ in asks]

    async def come_late() -> Reply:
        for event in begun:
            await event.wait()
        return await answer(late)

    running = [answer(ask, on_first=event.set) for ask, event in zip(asks, begun, strict=True)]
    *replies, intruder = await _together([*running, come_late()])
    return [reply.since(intruder.sent) for reply in replies]


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All of it; or the first error, and nothing is left running."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in work]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
