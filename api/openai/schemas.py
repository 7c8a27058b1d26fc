"""The OpenAI dialect: what clients of chat, completions and models send and what they get.

A field that does not work is checked here all the same; the translations refuse it by name.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from api.generation.constraint_schemas import Constrained, Text
from api.generation.schemas import (
    MAX_CHOICES,
    MAX_ITEMS,
    MAX_TOOLS,
    MaxTokens,
    MaxTokensOrNone,
    Request,
    Response,
    Sampled,
    TokenId,
    either,
    is_none,
    whole_numbers,
)

# ---------------------------------------------------------------- requests


class TextPart(Request):
    type: Literal["text"]
    text: str


class RefusalPart(Request):
    type: Literal["refusal"]
    refusal: str


class MediaPart(Request):
    """An image, a sound or a file: known, and refused by models that read only text. ``kind``: another such type."""

    type: Literal["image_url", "input_audio", "file"]
    kind: str = ""


ContentPart = Annotated[TextPart | RefusalPart | MediaPart, Field(discriminator="type")]
_TYPES_OF_PARTS = ("text", "refusal", "image_url", "input_audio", "file")


def _with_parts_of_any_type(parts: list[Any]) -> list[Any]:
    """What a tool gave back is not its client's to choose: parts of types that are not known here are files."""
    return [
        {"type": "file", "kind": part["type"]}
        if isinstance(part, dict)
        and isinstance(part.get("type"), str)
        and part["type"] not in _TYPES_OF_PARTS
        else part
        for part in parts
    ]


Content = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[ContentPart], Tag("list"), Field(max_length=MAX_ITEMS, fail_fast=True)],
    either("list", list),
]


class FunctionCall(Request):
    name: str
    arguments: str


class ToolCall(Request):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Request):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = Field(None, validate_default=True)
    name: str | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=MAX_TOOLS)
    function_call: FunctionCall | None = None
    tool_call_id: str | None = Field(None, validate_default=True)
    reasoning_content: str | None = Field(
        None,
        validation_alias=AliasChoices("reasoning_content", "reasoning"),  # as answers have it
    )

    @field_validator("content", mode="before")
    @classmethod
    def _of_any_type(cls, content: Any, info: ValidationInfo) -> Any:
        of_a_tool = info.data.get("role") in ("tool", "function")
        return _with_parts_of_any_type(content) if of_a_tool and isinstance(content, list) else content

    @field_validator("content")
    @classmethod
    def _has_content(cls, content: Content | None, info: ValidationInfo) -> Content | None:
        if content is None and info.data.get("role") in ("system", "developer", "user", "tool"):
            raise PydanticKnownError("missing")
        return content

    @field_validator("tool_call_id")
    @classmethod
    def _answers_a_call(cls, id: str | None, info: ValidationInfo) -> str | None:
        if id is None and info.data.get("role") == "tool":
            raise PydanticKnownError("missing")
        return id


class FunctionDefinition(Request):
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Request):
    type: Literal["function"]
    function: FunctionDefinition


class FunctionName(Request):
    name: str


class NamedToolChoice(Request):
    type: Literal["function"]
    function: FunctionName


class AllowedTool(Request):
    function: FunctionName


class AllowedTools(Request):
    mode: Literal["auto", "required"]
    tools: list[AllowedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedToolsChoice(Request):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoiceObject = Annotated[NamedToolChoice | AllowedToolsChoice, Field(discriminator="type")]
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("string")]
    | Annotated[ToolChoiceObject, Tag("object")],
    either("object", dict),
]
FunctionChoice = Annotated[
    Annotated[Literal["none", "auto"], Tag("string")] | Annotated[FunctionName, Tag("object")],
    either("object", dict),
]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class JsonSchema(Request):
    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Request):
    """OpenAI's three types, with the schema in a place that others have for it, and the types of others."""

    type: Literal["text", "json_object", "json_schema", "regex", "grammar"]
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    json_schema: JsonSchema | None = Field(None, validate_default=True)
    pattern: Text | None = Field(
        None, validation_alias=AliasChoices("pattern", "regex", "value"), validate_default=True
    )
    grammar: Text | None = Field(None, validate_default=True)

    @field_validator("json_schema")
    @classmethod
    def _has_its_schema(cls, schema: JsonSchema | None, info: ValidationInfo) -> JsonSchema | None:
        if schema is None and info.data.get("type") == "json_schema" and not info.data.get("schema_"):
            raise PydanticKnownError("missing")
        return schema

    @field_validator("pattern", "grammar")
    @classmethod
    def _has_its_text(cls, text: str | None, info: ValidationInfo) -> str | None:
        needed = {"regex": "pattern", "grammar": "grammar"}.get(info.data.get("type", ""))
        if text is None and info.field_name == needed:
            raise PydanticKnownError("missing")
        return text


class StreamOptions(Request):
    include_usage: bool = False


_MAX_TOKENS = AliasChoices("max_tokens", "n_predict", "max_new_tokens")


class _GenerationRequest(Constrained, Sampled):
    """The fields that chat and completions share."""

    BLANK: ClassVar = Constrained.BLANK | Sampled.BLANK | {"response_format"}
    ENDLESS: ClassVar = frozenset({"max_tokens", "n_predict", "max_new_tokens"})

    model: str | None = Field(None, max_length=512)
    max_tokens: MaxTokens | None = Field(None, validation_alias=_MAX_TOKENS)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    response_format: ResponseFormat | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @field_validator("stream_options")
    @classmethod
    def _only_with_stream(cls, options: StreamOptions | None, info: ValidationInfo) -> StreamOptions | None:
        if options is not None and info.data.get("stream") is False:
            raise ValueError("it is only allowed when 'stream' is true")
        return options

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ThinkingSwitch(Request):
    """As DeepSeek's and GLM's clients have it."""

    type: Literal["enabled", "adaptive", "auto", "disabled"]


class ChatCompletionRequest(_GenerationRequest):
    BLANK: ClassVar = _GenerationRequest.BLANK | {"reasoning_effort", "tool_choice", "function_call"}
    ENDLESS: ClassVar = _GenerationRequest.ENDLESS | {"max_completion_tokens"}

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)
    max_completion_tokens: MaxTokens | None = None  # wins over max_tokens
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    functions: list[FunctionDefinition] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    function_call: FunctionChoice | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] = {}
    enable_thinking: bool | None = None
    thinking: ThinkingSwitch | None = None

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top is not None and info.data.get("logprobs") is False:
            raise ValueError("it is only allowed when 'logprobs' is true")
        return top

    @field_validator("tool_choice")
    @classmethod
    def _only_with_tools(cls, choice: ToolChoice | None, info: ValidationInfo) -> ToolChoice | None:
        if choice not in (None, "none", "auto") and info.data.get("tools") == []:
            raise ValueError("it is only allowed when 'tools' are given")
        return choice

    @property
    def legacy(self) -> bool:
        """Tools were asked for by their old name, functions, and calls are answered by theirs."""
        return bool(self.functions) and not self.tools


def _kind_of_prompt(value: Any) -> str:
    first = value[0] if isinstance(value, list) and value else value
    match first:
        case int() | float():
            return "ids"
        case list():
            return "lists of ids"
    return "strings" if isinstance(value, list) else "string"


_Ids = Annotated[list[TokenId], Field(min_length=1, max_length=1 << 20, fail_fast=True)]
_Many = Field(min_length=1, max_length=MAX_ITEMS)
TextOrTokens = Annotated[
    Annotated[str, Tag("string")]
    | Annotated[list[str], Tag("strings"), _Many]
    | Annotated[_Ids, Tag("ids")]
    | Annotated[list[_Ids], Tag("lists of ids"), _Many],
    Discriminator(_kind_of_prompt),
]


class CompletionRequest(_GenerationRequest):
    """``max_tokens`` None: as many as the context has room for."""

    prompt: TextOrTokens
    max_tokens: MaxTokensOrNone | None = Field(16, validation_alias=_MAX_TOKENS)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)

    @field_validator("prompt", mode="before")
    @classmethod
    def _ids_are_whole(cls, prompt: Any, info: ValidationInfo) -> Any:
        return whole_numbers(prompt) if info.context else prompt

    @field_validator("best_of")
    @classmethod
    def _not_below_n(cls, best_of: int | None, info: ValidationInfo) -> int | None:
        if best_of is not None and best_of < info.data.get("n", 1):
            raise ValueError("it must not be smaller than 'n'")
        return best_of

    @property
    def choices(self) -> int:
        """How many are run for each prompt; the best ``n`` of them are the answer."""
        return self.best_of or self.n


# ---------------------------------------------------------------- responses

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
    """``content`` is of the content's tokens alone; those of the thinking, if there were any, are apart."""

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
    """``reasoning`` is said twice: clients look for it under either name."""

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
    """``id``, ``type`` and the name come once: clients join what comes twice."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: CalledFunctionPiece


class ChunkDelta(Response):
    """Only the keys that were set are sent."""

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
    """``usage`` is sent only when the client asked for it: null, and a value in the last chunk."""

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
    """The whole answer, and each chunk of a stream, where ``usage`` is as in ChatCompletionChunk."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ModelCapabilities(Response):
    tools: bool
    reasoning: bool
    json_schema: bool
    logprobs: bool
    infill: bool


class ModelInfo(Response):
    """One object for OpenAI's and Anthropic's clients, and what this server knows besides.

    ``capabilities``, ``size``, the bytes of its weights, and ``default_sampling``, what its generation_config.json says
    for requests that do not, are known once a model was loaded.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mlx-server"
    type: Literal["model"] = "model"
    display_name: str
    created_at: str
    lifecycle: Literal["active", "retired"] = "active"  # retired: requests that name it fail
    capabilities: ModelCapabilities | None = None
    max_tokens: None = None
    max_input_tokens: int | None = None
    status: Literal["hot", "loading", "loadable", "failed"]
    reason: str | None = None
    context_length: int | None = None
    size: int | None = None
    default_sampling: dict[str, float] | None = None


class ModelListResponse(Response):
    object: Literal["list"] = "list"
    data: list[ModelInfo]
    has_more: bool = False
    first_id: str | None
    last_id: str | None


# ---------------------------------------------------------------- names

# What the parts of an answer were first called; both names are part of this module's promise.
ChatCompletionChoice = ChatChoice
ChatCompletionChunkDelta = ChunkDelta
ChatCompletionChunkChoice = ChunkChoice

# ---------------------------------------------------------------- tokens


class TokenizeRequest(Request):
    """A text (``prompt``, or ``content`` as llama.cpp calls it), or messages as the model's template renders them."""

    model: str | None = Field(None, max_length=512)
    prompt: str | None = None
    content: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=MAX_ITEMS)
    tools: list[Tool] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    chat_template_kwargs: dict[str, Any] = {}


class TokenizeResponse(Response):
    tokens: list[int]
    count: int
    max_model_len: int | None


class DetokenizeRequest(Request):
    model: str | None = Field(None, max_length=512)
    tokens: list[TokenId] = Field(min_length=1, max_length=1 << 20, fail_fast=True)

    @field_validator("tokens", mode="before")
    @classmethod
    def _ids_are_whole(cls, tokens: Any, info: ValidationInfo) -> Any:
        return whole_numbers(tokens) if info.context else tokens


class DetokenizeResponse(Response):
    """The text under both names it has elsewhere."""

    prompt: str
    content: str


class ApplyTemplateRequest(Request):
    model: str | None = Field(None, max_length=512)
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)
    tools: list[Tool] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    chat_template_kwargs: dict[str, Any] = {}


class ApplyTemplateResponse(Response):
    prompt: str


class ErrorDetails(Response):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(Response):
    """Always all four keys."""

    error: ErrorDetails
