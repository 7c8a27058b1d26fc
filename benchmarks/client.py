"""Plays a plan against a server: every request on a connection of its own, and when its text came.

Most events are only searched, not parsed: the client shares the machine with what it measures.
Times are seconds of one monotonic clock.
"""

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol, TypeVar

from benchmarks.workloads import (
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
from tests.client import DONE, Event, EventReader, Refused, stream

T = TypeVar("T")

_GIVES_TEXT = re.compile(rb'"(?:content|text|reasoning|reasoning_content)":\s*"[^"]')
_GIVES_USAGE = re.compile(rb'"usage":\s*\{')
_GIVES_ERROR = re.compile(rb'^\s*\{\s*"error"')


class Failed(Exception):
    """What was measured did not work; its text says how. A failure is a result."""


@dataclass
class Reply:
    """``arrivals``: when text came; what comes in one read has one time."""

    sent: float
    arrivals: list[float] = field(default_factory=list)
    completion_tokens: int = 0
    text: str = ""  # only when it was asked to be kept
    ended: bool = False

    @property
    def ttft(self) -> float:
        return self.arrivals[0] - self.sent if self.arrivals else math.inf

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.arrivals)]

    def since(self, moment: float) -> "Reply":
        """The arrivals from the last one before ``moment`` on."""
        before = sum(arrival < moment for arrival in self.arrivals)
        return replace(self, arrivals=self.arrivals[max(0, before - 1) :])


@dataclass
class Played:
    """One workload, played once."""

    seconds: float
    tokens: int
    replies: list[Reply] = field(default_factory=list)


def gives_text(event: Event) -> bool:
    return _GIVES_TEXT.search(event.data) is not None


def text_of(event: Event) -> str:
    """What the event adds to the first choice."""
    for choice in event.json().get("choices", []):
        return str(choice.get("delta", {}).get("content") or choice.get("text") or "")
    return ""


async def complete(
    port: int, body: Any, *, keep_text: bool = False, on_first: Callable[[], None] | None = None
) -> Reply:
    """Streams a chat completion to its end; ``on_first`` is called with its first text. Raises Failed."""
    reply = Reply(sent=time.perf_counter())
    try:
        async with aclosing(stream(port, body, EventReader())) as reads:
            async for found in reads:
                _take(found, reply, keep_text)
                if reply.arrivals and on_first:
                    on_first()
                    on_first = None
    except (OSError, EOFError, ValueError, Refused) as error:
        raise Failed(f"{type(error).__name__}: {error}") from error
    if not reply.ended:
        raise Failed(f"the stream broke off after {len(reply.arrivals)} reads with text")
    return reply


def _take(found: list[Event], reply: Reply, keep_text: bool) -> None:
    texts = [event for event in found if gives_text(event)]
    if texts:
        reply.arrivals.append(time.perf_counter())
    if keep_text:
        reply.text += "".join(map(text_of, texts))
    for event in found:
        if event.data == DONE:
            reply.ended = True
        elif _GIVES_USAGE.search(event.data):
            reply.completion_tokens = event.json()["usage"]["completion_tokens"]
        elif _GIVES_ERROR.search(event.data):
            raise Failed(event.data.decode("utf-8", "replace")[:300])


class Answer(Protocol):
    """One request to its end, as ``complete``."""

    def __call__(
        self, ask: Ask, *, keep_text: bool = False, on_first: Callable[[], None] | None = None
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
