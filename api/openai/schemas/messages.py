"""The messages of a chat as clients send them: roles, parts and calls."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from api.generation.schemas import MAX_ITEMS, MAX_TOOLS, Request, either
from api.generation.tools import arguments_text


class TextPart(Request):
    """``input_text`` and ``output_text`` are its names in /v1/responses."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class RefusalPart(Request):
    type: Literal["refusal"]
    refusal: str


class ThinkingPart(Request):
    """Past thinking as a part, in Mistral's or Anthropic's form; its text, or text parts."""

    type: Literal["thinking"]
    thinking: str | Annotated[list[TextPart], Field(max_length=MAX_ITEMS, fail_fast=True)]

    @property
    def text(self) -> str:
        return (
            self.thinking
            if isinstance(self.thinking, str)
            else "\n".join(each.text for each in self.thinking)
        )


class MediaPart(Request):
    """An image, a sound or a file, which text models refuse. ``kind``: another type of a tool's part."""

    type: Literal["image_url", "input_audio", "file"]
    kind: str = ""


ContentPart = Annotated[TextPart | RefusalPart | ThinkingPart | MediaPart, Field(discriminator="type")]
_TYPES_OF_PARTS = (
    *("text", "input_text", "output_text"),
    *("refusal", "thinking", "image_url", "input_audio", "file"),
)


def _with_parts_of_any_type(parts: list[Any]) -> list[Any]:
    """A client does not choose what its tools answer: parts of unknown types are read as files."""
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
    """Of a past call, whose arguments a model wrote and a client kept: the template gets what it can take of them."""

    name: str
    arguments: str = ""

    @field_validator("arguments", mode="before")
    @classmethod
    def _as_text(cls, arguments: Any, info: ValidationInfo) -> Any:
        return arguments_text(arguments) if info.context else arguments


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
        validation_alias=AliasChoices(
            "reasoning_content", "reasoning"
        ),  # the names under which answers have it
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
