"""The requests and answers of /tokenize, /detokenize and /apply-template."""

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from api.generation.schemas import MAX_ITEMS, MAX_TOOLS, ModelName, Request, Response, TokenIds, whole_numbers
from api.openai.schemas.messages import ChatMessage
from api.openai.schemas.tools import Tool


class TokenizeRequest(Request):
    """A text (``prompt``, or llama.cpp's ``content``), or messages for the chat template."""

    model: ModelName | None = None
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
    model: ModelName | None = None
    tokens: TokenIds

    @field_validator("tokens", mode="before")
    @classmethod
    def _ids_are_whole(cls, tokens: Any, info: ValidationInfo) -> Any:
        return whole_numbers(tokens) if info.context else tokens


class DetokenizeResponse(Response):
    """The text under the names that vLLM and llama.cpp have for it."""

    prompt: str
    content: str


class ApplyTemplateRequest(Request):
    model: ModelName | None = None
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)
    tools: list[Tool] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    chat_template_kwargs: dict[str, Any] = {}


class ApplyTemplateResponse(Response):
    prompt: str
