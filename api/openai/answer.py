"""Deltas -> one whole answer, for clients that do not stream."""

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from api.generation.usage import Identity, Tally, text_of
from api.openai.logprobs import CompletionScores, chat_logprobs
from api.openai.schemas import (
    AssistantMessage,
    CalledFunction,
    CallMade,
    ChatChoice,
    ChatCompletionRequest,
    ChatCompletionResponse,
    CompletionChoice,
    CompletionRequest,
    CompletionResponse,
)
from shared.protocol import CallPiece, Delta, Start, TokenLogprob


@dataclass
class Call:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    @property
    def function(self) -> CalledFunction:
        return CalledFunction(name=self.name, arguments="".join(self.arguments))


@dataclass
class Choice:
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: dict[int, Call] = field(default_factory=dict)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    start: Start | None = None
    finish_reason: Literal["stop", "length", "tool_calls"] = "stop"

    def add(self, delta: Delta) -> None:
        self.texts.append(text_of(delta))
        self.thoughts.append(delta.reasoning)
        self.logprobs += delta.logprobs or ()
        self.start = self.start or delta.start
        for piece in delta.calls:
            self._add_call(piece)
        if delta.finish is not None:
            self.finish_reason = delta.finish.reason.value

    def _add_call(self, piece: CallPiece) -> None:
        call = self.calls.setdefault(piece.index, Call(piece.id or "", piece.name or ""))
        call.arguments.append(piece.arguments)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def mean_logprob(self) -> float:
        return sum(token.logprob for token in self.logprobs) / max(len(self.logprobs), 1)


async def collect(replies: AsyncIterable[list[Delta]], choices: int, n: int) -> tuple[list[Choice], Tally]:
    """``n`` choices of each prompt, ``choices`` in all."""
    collected, tally = [Choice() for _ in range(choices)], Tally(n)
    async for batch in replies:
        for delta in batch:
            tally.see(delta)
            collected[delta.choice].add(delta)
    return collected, tally


# ---------------------------------------------------------------- chat


async def chat_completion(
    identity: Identity, replies: AsyncIterable[list[Delta]], request: ChatCompletionRequest
) -> ChatCompletionResponse:
    collected, tally = await collect(replies, request.n, request.n)
    return ChatCompletionResponse(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        choices=[_chat_choice(index, choice, request) for index, choice in enumerate(collected)],
        usage=tally.usage(),
    )


def _chat_choice(index: int, choice: Choice, request: ChatCompletionRequest) -> ChatChoice:
    called = request.legacy and choice.finish_reason == "tool_calls"
    return ChatChoice(
        index=index,
        message=_message(choice, request.legacy),
        logprobs=chat_logprobs(choice.logprobs) if request.logprobs else None,
        finish_reason="function_call" if called else choice.finish_reason,
    )


def _message(choice: Choice, legacy: bool) -> AssistantMessage:
    reasoning = "".join(choice.thoughts) or None
    calls = list(choice.calls.values())
    made = [CallMade(id=call.id, function=call.function) for call in calls]
    return AssistantMessage(
        content=choice.text or (None if calls else ""),
        reasoning_content=reasoning,
        reasoning=reasoning,
        tool_calls=None if legacy or not made else made,
        function_call=calls[0].function if legacy and calls else None,
    )


# ---------------------------------------------------------------- completions


async def completion(
    identity: Identity, replies: AsyncIterable[list[Delta]], request: CompletionRequest, prompts: int
) -> CompletionResponse:
    collected, tally = await collect(replies, prompts * request.choices, request.choices)
    answers = best(collected, request.choices, request.n)
    return CompletionResponse(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        choices=[
            CompletionChoice(
                index=index,
                text=choice.text,
                logprobs=None
                if request.logprobs is None
                else CompletionScores().next(choice.logprobs, choice.start),
                finish_reason=choice.finish_reason,
            )
            for index, choice in enumerate(answers)
        ],
        usage=tally.usage(),
    )


def best(choices: Sequence[Choice], ran: int, wanted: int) -> list[Choice]:
    """Of each ``ran`` choices of one prompt the ``wanted`` with the highest mean log probability, best first."""
    if ran == wanted:
        return list(choices)
    prompts = [choices[i : i + ran] for i in range(0, len(choices), ran)]
    ranked = [sorted(group, key=lambda choice: -choice.mean_logprob) for group in prompts]
    return [choice for group in ranked for choice in group[:wanted]]
