"""Deltas -> one whole answer, for clients that do not stream."""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from typing import Literal

from api.answer import Identity, Tally, text_of
from api.logprobs import CompletionScores, chat_logprobs
from shared.openai import (
    AssistantMessage,
    ChatChoice,
    ChatCompletionResponse,
    CompletionChoice,
    CompletionResponse,
)
from shared.protocol import Delta, TokenLogprob


@dataclass
class Choice:
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: Literal["stop", "length", "tool_calls"] = "stop"

    def add(self, delta: Delta) -> None:
        self.texts.append(text_of(delta))
        self.logprobs += delta.logprobs or ()
        if delta.finish is not None:
            self.finish_reason = delta.finish.reason.value

    @property
    def text(self) -> str:
        return "".join(self.texts)


async def collect(replies: AsyncIterable[list[Delta]], choices: int, n: int) -> tuple[list[Choice], Tally]:
    collected, tally = [Choice() for _ in range(choices)], Tally(n)
    async for batch in replies:
        for delta in batch:
            tally.see(delta)
            collected[delta.choice].add(delta)
    return collected, tally


async def chat_completion(
    identity: Identity, replies: AsyncIterable[list[Delta]], n: int, logprobs: bool
) -> ChatCompletionResponse:
    collected, tally = await collect(replies, n, n)
    return ChatCompletionResponse(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        choices=[
            ChatChoice(
                index=index,
                message=AssistantMessage(content=choice.text),
                logprobs=chat_logprobs(choice.logprobs) if logprobs else None,
                finish_reason=choice.finish_reason,
            )
            for index, choice in enumerate(collected)
        ],
        usage=tally.usage(),
    )


async def completion(
    identity: Identity, replies: AsyncIterable[list[Delta]], prompts: int, n: int, logprobs: bool
) -> CompletionResponse:
    collected, tally = await collect(replies, prompts * n, n)
    return CompletionResponse(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        choices=[
            CompletionChoice(
                index=index,
                text=choice.text,
                logprobs=CompletionScores().next(choice.logprobs) if logprobs else None,
                finish_reason=choice.finish_reason,
            )
            for index, choice in enumerate(collected)
        ],
        usage=tally.usage(),
    )
