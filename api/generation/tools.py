"""Tools in the form of chat templates, and which of them the model may call. Pure; every dialect makes them here.

Rule 1: all tools of a request together are bounded; the bound of each schema alone would allow 32 MiB.
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import to_json

from api.generation.grammars import check_schema
from api.generation.refusals import wrong
from api.generation.schemas import MAX_TOOLS
from shared.protocol import ToolUse

MAX_BYTES = (
    1 << 20
)  # of all tools as JSON: 250,000 tokens, and ten times the tools of the largest known agents


class Tools:
    """The tools of one request. ``param`` is their field in the request."""

    def __init__(self, param: str = "tools") -> None:
        self._param = param
        self._count = self._bytes = 0

    def make(
        self, name: str, description: str | None, parameters: dict[str, Any] | None, param: str
    ) -> dict[str, Any]:
        """A tool as chat templates read it. Raises InvalidRequest; ``param`` is the field of its schema."""
        function: dict[str, Any] = {"name": name}
        if description is not None:
            function["description"] = description
        if parameters is not None:
            check_schema(parameters, param)
        function["parameters"] = parameters or {"type": "object", "properties": {}}
        self._count += 1
        self._bytes += len(to_json(function))
        if self._count > MAX_TOOLS:
            raise wrong(self._param, f"there must be at most {MAX_TOOLS} functions in all")
        if self._bytes > MAX_BYTES:
            raise wrong(
                self._param,
                f"all tools together are larger than {MAX_BYTES} bytes: offer fewer, or shorten their schemas",
            )
        return {"type": "function", "function": function}


def names_of(tools: Sequence[dict[str, Any]]) -> list[str]:
    return [tool["function"]["name"] for tool in tools]


def tool_use(
    mode: Literal["auto", "required"],
    names: Sequence[str],
    tools: Sequence[dict[str, Any]],
    parallel: bool | None,
) -> ToolUse:
    """Raises InvalidRequest for a name that is not a tool's.

    ``parallel`` None: the client says nothing. A required call is one call then: small models that must call repeat
    theirs without end.
    """
    if parallel is None:
        parallel = mode == "auto"
    offered = names_of(tools)
    for name in names:
        if name not in offered:
            raise wrong("tool_choice", f"there is no tool {name[:64]!r}; tools: {', '.join(offered)[:400]}")
    return ToolUse(mode=mode, names=list(names), parallel=parallel)


def said(request: BaseModel, parameter: str) -> Any:
    """The parameter's value; None if the client did not say it."""
    return getattr(request, parameter) if parameter in request.model_fields_set else None


def arguments_text(said: Any) -> Any:
    """Arguments of a past call as text: clients that keep them as JSON send them so."""
    return to_json(said).decode() if isinstance(said, dict | list) else said
