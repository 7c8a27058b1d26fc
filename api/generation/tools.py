"""Tools as the prompt shows them, and which of them may be called. Pure; every dialect ends here."""

from collections.abc import Sequence
from typing import Any, Literal

from api.generation.grammars import check_schema
from api.generation.refusals import wrong
from shared.protocol import ToolUse


def tool(name: str, description: str | None, parameters: dict[str, Any] | None, param: str) -> dict[str, Any]:
    """The form that chat templates read. ``param`` is what to blame for a schema that cannot be used."""
    function: dict[str, Any] = {"name": name}
    if description is not None:
        function["description"] = description
    if parameters is not None:
        check_schema(parameters, param)
    function["parameters"] = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def names_of(tools: Sequence[dict[str, Any]]) -> list[str]:
    return [tool["function"]["name"] for tool in tools]


def tool_use(
    mode: Literal["auto", "required"], names: Sequence[str], tools: Sequence[dict[str, Any]], parallel: bool
) -> ToolUse:
    """Raises InvalidRequest when a name is not a tool's."""
    offered = names_of(tools)
    for name in names:
        if name not in offered:
            raise wrong("tool_choice", f"there is no tool {name[:64]!r}; tools: {', '.join(offered)[:400]}")
    return ToolUse(mode=mode, names=list(names), parallel=parallel)
