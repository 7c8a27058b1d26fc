"""The tools that the model is offered: those of the request, then those that the conversation added. Pure.

Rule 1: a deferred tool comes after the others, once a search found it or a message added it. Claude Code defers most of
its tools, and the prompt before them does not change.
Rule 2: tools that Anthropic defines are offered if the client runs them, and left out if Anthropic's servers do.
Rule 3: this server runs no tool search: a request with one gets every tool offered.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from api.generation.tools import Tools
from api.messages.client_tools import client_tool
from api.messages.schemas import (
    CountTokensRequest,
    CustomTool,
    DefinedTool,
    InputBlock,
    NamedTool,
    OtherTool,
    ToolChangeBlock,
    ToolReferenceBlock,
    ToolResultBlock,
)

SEARCH = "tool_search_tool_"  # the types of the searches that Anthropic defines


@dataclass(frozen=True)
class ToolChange:
    """Adds or removes a tool. ``definition``: of a new tool, and its field."""

    name: str
    removed: bool = False
    definition: tuple[CustomTool, str] | None = None


def offered(request: CountTokensRequest) -> list[dict[str, Any]]:
    if request.tool_choice is not None and request.tool_choice.type == "none":
        return []
    at_once = any(isinstance(one, OtherTool) and one.type.startswith(SEARCH) for one in request.tools)
    made = Tools()
    known: dict[str, dict[str, Any]] = {}
    shown: dict[str, dict[str, Any]] = {}
    for i, one in enumerate(request.tools):
        path = f"tools[{i}]"
        shape = client_tool(one, path) if isinstance(one, OtherTool) else one
        if shape is not None:
            known[shape.name] = _tool(made, shape, path)
            if at_once or not shape.defer_loading:
                shown[shape.name] = known[shape.name]
    for change in _changes(request):
        if change.definition is not None:
            known[change.name] = _tool(made, *change.definition)
        if change.removed:
            shown.pop(change.name, None)
        elif change.name in known:
            shown[change.name] = known[change.name]
    return list(shown.values())


def in_words(block: ToolReferenceBlock | ToolChangeBlock) -> list[str]:
    """What the prompt says where a tool is added or removed."""
    change = change_of(block, "")
    if change is None:
        return []
    return [f"The tool {change.name} {'is no longer' if change.removed else 'is now'} available."]


def change_of(block: ToolReferenceBlock | ToolChangeBlock, path: str) -> ToolChange | None:
    match block:
        case ToolReferenceBlock():
            return ToolChange(block.tool_name)
        case ToolChangeBlock(tool=NamedTool(name=name)):
            return ToolChange(name, removed=block.type == "tool_removal")
        case ToolChangeBlock(tool=DefinedTool(definition=CustomTool() as defined)):
            definition = defined, f"{path}.tool.definition"
            return ToolChange(defined.name, removed=block.type == "tool_removal", definition=definition)
        case _:
            return None


def _tool(made: Tools, one: CustomTool, path: str) -> dict[str, Any]:
    return made.make(one.name, one.description, one.input_schema, f"{path}.input_schema")


def _changes(request: CountTokensRequest) -> Iterator[ToolChange]:
    for i, message in enumerate(request.messages):
        for j, block in enumerate(message.content if isinstance(message.content, list) else []):
            yield from _changes_in(block, f"messages[{i}].content[{j}]")


def _changes_in(block: InputBlock, path: str) -> Iterator[ToolChange]:
    parts = (
        block.content if isinstance(block, ToolResultBlock) and isinstance(block.content, list) else [block]
    )
    for part in parts:
        if isinstance(part, ToolReferenceBlock | ToolChangeBlock):
            change = change_of(part, path)
            if change is not None:
                yield change
