"""The answers of /v1/chat/completions and /v1/completions: whole ones, chunks of streams, and errors."""

from typing import Any, Literal

from pydantic import Field

from api.generation.schemas import Response, is_none

FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class PromptTokensDetails(Response):
    cached_tokens: int = 0
    audio_tokens: int = 0


class CompletionTokensDetails(Response):
    reasoning_tokens: int = 0
    audio_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class Usage(Response):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class TopLogprob(Response):
    token: str
    logprob: float
    bytes: list[int] | None


class ChatLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Response):
    """``content`` has the content's tokens only; those of the thinking are apart."""

    content: list[ChatLogprob]
    refusal: None = None
    reasoning_content: list[ChatLogprob] | None = Field(None, exclude_if=is_none)


class CalledFunction(Response):
    name: str
    arguments: str


class CallMade(Response):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(Response):
    """``reasoning`` repeats ``reasoning_content``: clients read either name."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[Any] = []
    reasoning_content: str | None = Field(None, exclude_if=is_none)
    reasoning: str | None = Field(None, exclude_if=is_none)
    tool_calls: list[CallMade] | None = Field(None, exclude_if=is_none)
    function_call: CalledFunction | None = Field(None, exclude_if=is_none)


class ChatChoice(Response):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletionResponse(Response):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str = "mlx-server"
    service_tier: str | None = "default"


class CalledFunctionPiece(Response):
    name: str | None = None
    arguments: str


class CallPieceMade(Response):
    """``id``, ``type`` and the name come once: clients concatenate repeated values."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunctionPiece


class ChunkDelta(Response):
    """Only the keys that are set are sent."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[CallPieceMade] | None = None
    function_call: CalledFunctionPiece | None = None


class ChunkChoice(Response):
    index: int
    delta: ChunkDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(Response):
    """``usage`` is sent only if requested: null, and a value in the last chunk."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(Response):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Response):
    """``finish_reason`` is null only in a stream."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class CompletionResponse(Response):
    """The whole answer and each chunk of a stream; ``usage`` as in ChatCompletionChunk."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ErrorDetails(Response):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Response):
    """All four keys are always present."""

    error: ErrorDetails


# The first specification's names of the parts of an answer; both names stay.
ChatCompletionChoice = ChatChoice
ChatCompletionChunkDelta = ChunkDelta
ChatCompletionChunkChoice = ChunkChoice
