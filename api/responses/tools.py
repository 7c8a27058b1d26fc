"""Functions and namespaces -> the tools of the prompt, and the names of calls back. Pure.

Rule 1: a function in a namespace becomes a function with a longer name.
Rule 2: tools of unknown types are left out: clients send them to every server.
"""

from collections.abc import Iterator
from typing import Any

from api.generation.tools import Tools
from api.responses.schemas import FunctionTool, NamespaceTool, ResponsesRequest

SEPARATOR = "__"


def offered(request: ResponsesRequest) -> list[dict[str, Any]]:
    if request.tool_choice == "none":
        return []
    made = Tools()
    return [
        made.make(long_name(namespace, one.name), one.description, one.parameters, f"{path}.parameters")
        for namespace, one, path in _functions(request)
    ]


def long_name(namespace: str | None, name: str) -> str:
    return f"{namespace}{SEPARATOR}{name}" if namespace else name


def called(request: ResponsesRequest, name: str) -> tuple[str | None, str]:
    """The namespace and the function's name in it."""
    for namespace, one, _ in _functions(request):
        if long_name(namespace, one.name) == name:
            return namespace, one.name
    return None, name


def shown(request: ResponsesRequest) -> list[dict[str, Any]]:
    """The tools as the response repeats them."""
    return [
        _shown(tool)
        if isinstance(tool, FunctionTool)
        else {**tool.model_dump(exclude={"tools"}), "tools": [_shown(one) for one in tool.functions]}
        for tool in request.tools
        if isinstance(tool, FunctionTool | NamespaceTool)
    ]


def _shown(tool: FunctionTool) -> dict[str, Any]:
    return {**tool.model_dump(), "strict": True if tool.strict is None else tool.strict}


def _functions(request: ResponsesRequest) -> Iterator[tuple[str | None, FunctionTool, str]]:
    """The namespace, the function and its field."""
    for i, one in enumerate(request.tools):
        if isinstance(one, FunctionTool):
            yield None, one, f"tools[{i}]"
        elif isinstance(one, NamespaceTool):
            for j, inner in enumerate(one.tools):
                if isinstance(inner, FunctionTool):
                    yield one.name, inner, f"tools[{i}].tools[{j}]"
