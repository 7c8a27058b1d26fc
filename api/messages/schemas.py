"""The Anthropic dialect: the requests and answers of /v1/messages.

Blocks, tools and choices of unknown types are accepted here; the translation leaves them out. A deferred tool is
offered to the model only after the conversation names it.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Tag, ValidationInfo, field_validator
from pydantic_core import from_json

from api.generation.constraint_schemas import Constrained
from api.generation.guessing import Guessed, is_zero
from api.generation.schemas import (
    MAX_ITEMS,
    MAX_TOOLS,
    ModelName,
    Request,
    Response,
    Sampled,
    by_type,
    either,
    without_blanks,
)

# ---------------------------------------------------------------- requests


def read_object(text: str) -> Any:
    """The JSON object that the text is; nothing where it is none, as of a call that was cut off."""
    try:
        found = from_json(text, allow_inf_nan=False)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class TextBlock(Request):
    type: Literal["text"]
    text: str


class ImageSource(Request):
    """Only read for a hosted model: ``data`` in base64, or a ``url``."""

    type: str = ""
    media_type: str = ""
    data: str = ""
    url: str = ""


class ImageBlock(Request):
    type: Literal["image"]
    source: ImageSource = ImageSource()


class OtherBlock(Request):
    type: str


TextOrOther = Annotated[
    Annotated[TextBlock, Tag("text")] | Annotated[OtherBlock, Tag("other")], by_type("text")
]


class DocumentSource(Request):
    """``text`` has ``data``, ``content`` has ``content``; other types are no text."""

    type: str
    data: str = ""
    content: Annotated[
        Annotated[str, Tag("string")]
        | Annotated[list[TextOrOther], Tag("list"), Field(max_length=MAX_ITEMS, fail_fast=True)],
        either("list", list),
    ] = ""

    @property
    def is_text(self) -> bool:
        parts = self.content if self.type == "content" and isinstance(self.content, list) else []
        return self.type in ("text", "content") and all(isinstance(part, TextBlock) for part in parts)

    @property
    def text(self) -> str:
        if self.type == "text":
            return self.data
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextBlock))


class DocumentBlock(Request):
    type: Literal["document"]
    source: DocumentSource
    title: str = ""
    context: str = ""


class SearchResultBlock(Request):
    """What the client's own search found."""

    type: Literal["search_result"]
    source: str = ""
    title: str = ""
    content: list[TextBlock] = Field([], max_length=MAX_ITEMS, fail_fast=True)


class ToolReferenceBlock(Request):
    """A deferred tool that a search found."""

    type: Literal["tool_reference"]
    tool_name: str


ResultPart = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[ToolReferenceBlock, Tag("tool_reference")]
    | Annotated[OtherBlock, Tag("other")],
    by_type("text", "image", "document", "search_result", "tool_reference"),
]


class ToolUseBlock(Request):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any] = {}

    @field_validator("input", mode="before")
    @classmethod
    def _of_no_arguments(cls, input: Any, info: ValidationInfo) -> Any:
        """Clients that put a streamed call together keep its text; PHP writes an empty object as a list."""
        if info.context and isinstance(input, str):
            return read_object(input)
        return {} if info.context and input == [] else input


class ToolResultBlock(Request):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[
        Annotated[str, Tag("string")]
        | Annotated[list[ResultPart], Tag("list"), Field(max_length=MAX_ITEMS, fail_fast=True)],
        either("list", list),
    ] = ""


class ThinkingBlock(Request):
    type: Literal["thinking"]
    thinking: str


class CustomTool(Request):
    type: Literal["custom"] = "custom"
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    defer_loading: bool = False


class OtherTool(Request):
    """A tool that Anthropic defines; the client or Anthropic's servers run it."""

    type: str
    name: str = Field("", max_length=256)
    defer_loading: bool = False


ToolDefinition = Annotated[
    Annotated[CustomTool, Tag("custom")] | Annotated[OtherTool, Tag("other")],
    by_type("custom", default="custom"),
]


class NamedTool(Request):
    type: Literal["tool_reference"]
    name: str


class DefinedTool(Request):
    type: Literal["tool_definition"]
    definition: ToolDefinition


class OtherReference(Request):
    type: str


class ToolChangeBlock(Request):
    """Adds or removes a tool for the rest of the conversation."""

    type: Literal["tool_addition", "tool_removal"]
    tool: Annotated[
        Annotated[NamedTool, Tag("tool_reference")]
        | Annotated[DefinedTool, Tag("tool_definition")]
        | Annotated[OtherReference, Tag("other")],
        by_type("tool_reference", "tool_definition"),
    ]


InputBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ImageBlock, Tag("image")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[ToolChangeBlock, Tag("tool_change")]
    | Annotated[OtherBlock, Tag("other")],
    by_type(
        *("text", "image", "document", "search_result", "tool_use", "tool_result", "thinking"),
        tool_addition="tool_change",
        tool_removal="tool_change",
    ),
]


class InputMessage(Request):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[str, Tag("string")]
        | Annotated[list[InputBlock], Tag("list"), Field(max_length=MAX_ITEMS, fail_fast=True)],
        either("list", list),
    ]


class ToolChoice(Request):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Request):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = Field(default=None, ge=1)


class OutputFormat(Request):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(Request):
    BLANK: ClassVar = frozenset({"effort"})

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class CountTokensRequest(Request):
    """The fields that make the prompt."""

    model: ModelName | None = None
    messages: list[InputMessage] = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)
    system: Annotated[
        Annotated[str, Tag("string")] | Annotated[list[TextBlock], Tag("list")], either("list", list)
    ] = ""
    tools: list[ToolDefinition] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()


class MessagesRequest(CountTokensRequest, Constrained, Guessed, Sampled):
    BLANK: ClassVar = Constrained.BLANK | Sampled.BLANK

    max_tokens: int = Field(ge=1, lt=1 << 31)  # at most what is left of the context
    stop_sequences: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field([], max_length=64)
    stream: bool = False
    temperature: float = Field(1.0, ge=0, le=1)
    top_p: float = Field(1.0, ge=0, le=1)
    output_format: OutputFormat | None = None  # the older name of output_config.format

    @field_validator("stop_sequences", mode="before")
    @classmethod
    def _blanks_end_nothing(cls, stop: Any, info: ValidationInfo) -> Any:
        return without_blanks(stop) if info.context else stop


# ---------------------------------------------------------------- responses


class CacheCreation(Response):
    ephemeral_1h_input_tokens: int = 0
    ephemeral_5m_input_tokens: int = 0


class OutputTokensDetails(Response):
    thinking_tokens: int = 0
    accepted_prediction_tokens: int = Field(0, exclude_if=is_zero)
    rejected_prediction_tokens: int = Field(0, exclude_if=is_zero)


class Usage(Response):
    """``input_tokens`` does not include cached ones."""

    input_tokens: int
    output_tokens: int
    cache_creation: CacheCreation = CacheCreation()
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    inference_geo: None = None
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    server_tool_use: None = None
    service_tier: Literal["standard"] = "standard"


class TextContent(Response):
    """Without ``citations``: there are none, and clients read null as a list."""

    type: Literal["text"] = "text"
    text: str


class ThinkingContent(Response):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = ""


class DirectCaller(Response):
    type: Literal["direct"] = "direct"


class ToolUseContent(Response):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]
    caller: DirectCaller = DirectCaller()


Content = TextContent | ThinkingContent | ToolUseContent
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class Message(Response):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Content]
    container: None = None
    stop_details: None = None
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: Usage


class CountTokensResponse(Response):
    input_tokens: int


class ErrorDetails(Response):
    type: str
    message: str


class ErrorResponse(Response):
    type: Literal["error"] = "error"
    error: ErrorDetails
    request_id: str
