"""The dialect of OpenAI's Responses and of Open Responses: the requests and answers of /v1/responses.

Items, tools and parts of unknown types are accepted here; the translation leaves them out or refuses them by name.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, Tag, TypeAdapter, ValidationInfo, field_validator

from api.generation.constraint_schemas import Constrained
from api.generation.guessing import Guessed, is_zero
from api.generation.schemas import (
    MAX_ITEMS,
    MAX_TOOLS,
    MaxTokens,
    ModelName,
    Request,
    Response,
    Sampled,
    TopLogprobs,
    by_type,
    either,
    is_none,
)
from api.generation.tools import arguments_text

# ---------------------------------------------------------------- requests


_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class TextPart(Request):
    type: str
    text: str


class RefusalPart(Request):
    type: Literal["refusal"]
    refusal: str


class ImagePart(Request):
    """Only read for a hosted model."""

    type: Literal["input_image"]
    image_url: str | None = None
    detail: str | None = None


class OtherPart(Request):
    type: str


Part = Annotated[
    Annotated[TextPart, Tag("text")]
    | Annotated[RefusalPart, Tag("refusal")]
    | Annotated[ImagePart, Tag("input_image")]
    | Annotated[OtherPart, Tag("other")],
    by_type("refusal", "input_image", **dict.fromkeys(_TEXTS, "text")),
]
Parts = Annotated[list[Part], Field(max_length=MAX_ITEMS, fail_fast=True)]
TextOrParts = Annotated[
    Annotated[str, Tag("string")] | Annotated[Parts, Tag("list")],
    either("list", list),
]


class MessageItem(Request):
    type: Literal["message"] = "message"
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: TextOrParts
    status: str | None = None


class FunctionCallItem(Request):
    type: Literal["function_call"]
    id: str | None = None
    call_id: str
    name: str
    namespace: str | None = None
    arguments: str = ""
    status: str | None = None

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_text(cls, arguments: Any, info: ValidationInfo) -> Any:
        return arguments_text(arguments) if info.context else arguments


class FunctionCallOutputItem(Request):
    type: Literal["function_call_output"]
    id: str | None = None
    call_id: str
    output: TextOrParts
    status: str | None = None


class ReasoningItem(Request):
    type: Literal["reasoning"]
    id: str | None = None
    summary: Parts = []
    content: Parts = []


class ItemReference(Request):
    type: Literal["item_reference"]
    id: str


class OtherItem(Request):
    type: str
    id: str | None = None


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[OtherItem, Tag("other")],
    by_type(
        "message", "function_call", "function_call_output", "reasoning", "item_reference", default="message"
    ),
]
INPUT_ITEMS: TypeAdapter[list[InputItem]] = TypeAdapter(list[InputItem])


class FunctionTool(Request):
    type: Literal["function"]
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class OtherTool(Request):
    type: str


class NamespaceTool(Request):
    """Functions of one origin; Codex sends those of MCP servers so."""

    type: Literal["namespace"]
    name: str = Field(min_length=1, max_length=256)
    description: str | None = None
    tools: list[
        Annotated[
            Annotated[FunctionTool, Tag("function")] | Annotated[OtherTool, Tag("other")],
            by_type("function"),
        ]
    ] = Field([], max_length=MAX_TOOLS)

    @property
    def functions(self) -> list[FunctionTool]:
        return [tool for tool in self.tools if isinstance(tool, FunctionTool)]


ToolDefinition = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[NamespaceTool, Tag("namespace")]
    | Annotated[OtherTool, Tag("other")],
    by_type("function", "namespace"),
]


class NamedTool(Request):
    type: Literal["function"]
    name: str
    namespace: str | None = Field(None, exclude_if=is_none)


class AllowedTool(Request):
    name: str
    namespace: str | None = Field(None, exclude_if=is_none)


class AllowedTools(Request):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[AllowedTool] = Field(min_length=1, max_length=MAX_TOOLS)


ToolChoiceObject = Annotated[NamedTool | AllowedTools, Field(discriminator="type")]
ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("string")]
    | Annotated[ToolChoiceObject, Tag("object")],
    either("object", dict),
]


class PlainFormat(Request):
    type: Literal["text", "json_object"]


class SchemaFormat(Request):
    type: Literal["json_schema"]
    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextConfig(Request):
    BLANK: ClassVar = frozenset({"verbosity"})

    format: Annotated[PlainFormat | SchemaFormat, Field(discriminator="type")] = PlainFormat(type="text")
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Request):
    BLANK: ClassVar = frozenset({"effort", "summary"})

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesRequest(Constrained, Guessed, Sampled):
    BLANK: ClassVar = (
        Constrained.BLANK
        | Sampled.BLANK
        | {"instructions", "previous_response_id", "tool_choice", "truncation"}
    )
    ENDLESS: ClassVar = frozenset({"max_output_tokens"})

    model: ModelName | None = None
    input: Annotated[
        Annotated[str, Tag("string")]
        | Annotated[list[InputItem], Tag("list"), Field(max_length=MAX_ITEMS, fail_fast=True)],
        either("list", list),
    ]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    stream: bool = False
    store: bool = True
    previous_response_id: str | None = None
    tools: list[ToolDefinition] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    text: TextConfig = TextConfig()
    reasoning: Reasoning = Reasoning()
    include: list[str] = []
    truncation: Literal["auto", "disabled"] = "disabled"
    metadata: dict[str, str] = Field({}, max_length=16)
    top_logprobs: TopLogprobs = 0
    max_tool_calls: int | None = Field(None, ge=1)
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    background: bool = False
    conversation: Any = None
    prompt: Any = None


# ---------------------------------------------------------------- responses


class TopLogprob(Response):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class OutputText(Response):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[Logprob] = []


class ReasoningText(Response):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class MessageOutput(Response):
    type: Literal["message"] = "message"
    id: str
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: list[OutputText]


class FunctionCallOutput(Response):
    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str
    name: str
    namespace: str | None = Field(None, exclude_if=is_none)
    arguments: str
    status: ItemStatus


class ReasoningOutput(Response):
    type: Literal["reasoning"] = "reasoning"
    id: str
    summary: list[Any] = []
    content: list[ReasoningText]
    encrypted_content: None = None
    status: ItemStatus


OutputItem = MessageOutput | FunctionCallOutput | ReasoningOutput


class InputTokensDetails(Response):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputTokensDetails(Response):
    reasoning_tokens: int
    accepted_prediction_tokens: int = Field(0, exclude_if=is_zero)
    rejected_prediction_tokens: int = Field(0, exclude_if=is_zero)


class Usage(Response):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ErrorDetails(Response):
    code: str
    message: str


class IncompleteDetails(Response):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseObject(Response):
    """It repeats the request's fields: a client that fetches it later has nothing else."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False] = False
    error: ErrorDetails | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    store: bool
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    truncation: str
    usage: Usage | None
    metadata: dict[str, str]
    max_output_tokens: int | None
    max_tool_calls: int | None
    service_tier: Literal["default"] = "default"
    safety_identifier: str | None
    prompt_cache_key: str | None


class DeletedResponse(Response):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItemList(Response):
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokensResponse(Response):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
