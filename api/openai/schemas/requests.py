"""The requests of /v1/chat/completions and /v1/completions.

Fields that are not supported are checked here as well; ``api.openai.request`` refuses them by name.
"""

from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from api.generation.constraint_schemas import Constrained, Text
from api.generation.guessing import Guessed
from api.generation.schemas import (
    MAX_CHOICES,
    MAX_ITEMS,
    MAX_TOOLS,
    MaxTokens,
    MaxTokensOrNone,
    ModelName,
    Request,
    Sampled,
    TextOrTokens,
    TopLogprobs,
    whole_numbers,
)
from api.openai.schemas.messages import ChatMessage
from api.openai.schemas.tools import FunctionChoice, FunctionDefinition, Tool, ToolChoice

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class JsonSchema(Request):
    name: str
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Request):
    """OpenAI's three types, other servers' types, and the schema at another server's place."""

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


class _GenerationRequest(Constrained, Guessed, Sampled):
    """The fields that chat and completions share."""

    BLANK: ClassVar = Constrained.BLANK | Sampled.BLANK | {"response_format"}
    ENDLESS: ClassVar = frozenset({"max_tokens", "n_predict", "max_new_tokens"})

    model: ModelName | None = None
    max_tokens: MaxTokens | None = Field(None, validation_alias=_MAX_TOKENS)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    response_format: ResponseFormat | None = None
    prompt_cache_key: str | None = None
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
    """DeepSeek's and GLM's form."""

    type: Literal["enabled", "adaptive", "auto", "disabled"]
    budget_tokens: int | None = Field(None, ge=0)


class ReasoningOptions(Request):
    """OpenRouter's form of ``reasoning_effort``, which Ollama takes too."""

    BLANK: ClassVar = frozenset({"effort"})

    effort: Effort | None = None
    max_tokens: int | None = Field(None, ge=1)
    enabled: bool | None = None
    exclude: bool = False


class ChatCompletionRequest(_GenerationRequest):
    BLANK: ClassVar = _GenerationRequest.BLANK | {"reasoning_effort", "tool_choice", "function_call"}
    ENDLESS: ClassVar = _GenerationRequest.ENDLESS | {"max_completion_tokens"}

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)
    max_completion_tokens: MaxTokens | None = None  # wins over max_tokens
    logprobs: bool = False
    top_logprobs: TopLogprobs | None = None
    tools: list[Tool] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    functions: list[FunctionDefinition] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    function_call: FunctionChoice | None = None
    reasoning_effort: Effort | None = None
    reasoning: ReasoningOptions | None = None  # ``reasoning_effort`` and ``thinking`` win over it
    chat_template_kwargs: dict[str, Any] = {}
    enable_thinking: bool | None = None
    thinking: ThinkingSwitch | None = None

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, top: int | None, info: ValidationInfo) -> int | None:
        if top and info.data.get("logprobs") is False:
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
        """Whether the request uses ``functions``, the older name of tools; then its calls are ``function_call``."""
        return bool(self.functions) and not self.tools


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
        """The number of choices that are run for each prompt; the best ``n`` are the answer."""
        return self.best_of or self.n
