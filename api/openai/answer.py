"""Blocks -> one whole answer of /v1/chat/completions or /v1/completions. Pure."""

from collections.abc import Sequence

from api.generation.blocks import Block, Blocks
from api.generation.usage import Identity, TokenCounter
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
    CompletionTokensDetails,
    FinishReason,
    PromptTokensDetails,
    Usage,
)
from shared.protocol import Start


def usage(counter: TokenCounter) -> Usage:
    return Usage(
        prompt_tokens=counter.prompt_tokens,
        completion_tokens=counter.completion_tokens,
        total_tokens=counter.prompt_tokens + counter.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=counter.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=counter.reasoning_tokens,
            accepted_prediction_tokens=counter.accepted_prediction_tokens,
            rejected_prediction_tokens=counter.rejected_prediction_tokens,
        ),
    )


def echoed(start: Start | None) -> str:
    """The prompt's text, where the request has ``echo``."""
    return (start.prompt_text or "") if start is not None else ""


def finish_reason(blocks: Blocks, legacy: bool = False) -> FinishReason:
    reason: FinishReason = blocks.finish.reason.value if blocks.finish is not None else "stop"
    return "function_call" if legacy and reason == "tool_calls" else reason


# ---------------------------------------------------------------- chat


def chat_completion(
    identity: Identity, choices: Sequence[Blocks], request: ChatCompletionRequest
) -> ChatCompletionResponse:
    return ChatCompletionResponse(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        choices=[_chat_choice(index, blocks, request) for index, blocks in enumerate(choices)],
        usage=usage(choices[0].counter),
    )


def _chat_choice(index: int, blocks: Blocks, request: ChatCompletionRequest) -> ChatChoice:
    return ChatChoice(
        index=index,
        message=_message(blocks, request.legacy),
        logprobs=chat_logprobs(blocks.logprobs) if request.logprobs else None,
        finish_reason=finish_reason(blocks, request.legacy),
    )


def _message(blocks: Blocks, legacy: bool) -> AssistantMessage:
    reasoning, calls = blocks.text("thinking") or None, blocks.calls
    made = [CallMade(id=call.id, function=_function(call)) for call in calls]
    return AssistantMessage(
        content=blocks.text() or (None if calls else ""),
        reasoning_content=reasoning,
        reasoning=reasoning,
        tool_calls=None if legacy or not made else made,
        function_call=_function(calls[0]) if legacy and calls else None,
    )


def _function(call: Block) -> CalledFunction:
    return CalledFunction(name=call.name, arguments=call.text)


# ---------------------------------------------------------------- completions


def completion(
    identity: Identity, choices: Sequence[Blocks], request: CompletionRequest
) -> CompletionResponse:
    answers = best(choices, request.choices, request.n)
    return CompletionResponse(
        id=identity.id,
        created=identity.created,
        model=identity.model,
        choices=[_completion_choice(index, blocks, request) for index, blocks in enumerate(answers)],
        usage=usage(choices[0].counter),
    )


def _completion_choice(index: int, blocks: Blocks, request: CompletionRequest) -> CompletionChoice:
    scored = request.logprobs is not None
    return CompletionChoice(
        index=index,
        text=echoed(blocks.start) + blocks.text(),
        logprobs=CompletionScores().next(blocks.logprobs, blocks.start) if scored else None,
        finish_reason=finish_reason(blocks),
    )


def best(choices: Sequence[Blocks], ran: int, wanted: int) -> list[Blocks]:
    """For each prompt, the ``wanted`` of its ``ran`` choices with the highest mean log probability, best first."""
    if ran == wanted:
        return list(choices)
    prompts = [choices[i : i + ran] for i in range(0, len(choices), ran)]
    ranked = [sorted(group, key=_mean_logprob, reverse=True) for group in prompts]
    return [blocks for group in ranked for blocks in group[:wanted]]


def _mean_logprob(blocks: Blocks) -> float:
    return sum(token.logprob for token in blocks.logprobs) / max(len(blocks.logprobs), 1)
