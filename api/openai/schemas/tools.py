"""The tools that a client defines, and its choice among them."""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from api.generation.schemas import MAX_TOOLS, Request, either


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
