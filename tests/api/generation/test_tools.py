"""The bound on all tools of a request, in every dialect."""

from collections.abc import Callable
from typing import Any

import pytest

from api.generation.tools import MAX_BYTES
from api.messages.request import message_generation
from api.messages.schemas import MessagesRequest
from api.openai.request import chat_generation, prompt_tools
from api.openai.schemas import ChatCompletionRequest, TokenizeRequest
from api.responses.request import response_generation
from api.responses.schemas import INPUT_ITEMS, ResponsesRequest
from shared.errors import InvalidRequest

HI = [{"role": "user", "content": "Hi"}]
Functions = list[dict[str, Any]]


def chat(functions: Functions) -> None:
    tools = [{"type": "function", "function": one} for one in functions]
    chat_generation(ChatCompletionRequest.model_validate({"messages": HI, "tools": tools}))


def legacy(functions: Functions) -> None:
    chat_generation(ChatCompletionRequest.model_validate({"messages": HI, "functions": functions}))


def tokenize(functions: Functions) -> None:
    tools = [{"type": "function", "function": one} for one in functions]
    prompt_tools(TokenizeRequest.model_validate({"messages": HI, "tools": tools}).tools)


def responses(functions: Functions) -> None:
    tools = [{"type": "function", **one} for one in functions]
    request = ResponsesRequest.model_validate({"input": HI, "tools": tools})
    response_generation(request, INPUT_ITEMS.validate_python(HI))


def namespaces(functions: Functions) -> None:
    inner = [{"type": "function", **one} for one in functions]
    tools = [{"type": "namespace", "name": f"n{i}", "tools": [one]} for i, one in enumerate(inner)]
    request = ResponsesRequest.model_validate({"input": HI, "tools": tools})
    response_generation(request, INPUT_ITEMS.validate_python(HI))


def messages(functions: Functions, **more: Any) -> None:
    tools = [
        {"name": one["name"], "description": one["description"], "input_schema": one["parameters"], **more}
        for one in functions
    ]
    message_generation(MessagesRequest.model_validate({"messages": HI, "max_tokens": 1, "tools": tools}))


def deferred(functions: Functions) -> None:
    messages(functions, defer_loading=True)


@pytest.mark.parametrize("in_dialect", [chat, legacy, tokenize, responses, namespaces, messages, deferred])
@pytest.mark.parametrize("where", ["description", "parameters"])
def test_tools_that_are_too_large_together_are_refused_by_name(
    in_dialect: Callable[[Functions], None], where: str
) -> None:
    size = 60 << 10
    text = "x" * size
    many: Functions = [
        {
            "name": f"f{i}",
            "description": text if where == "description" else "",
            "parameters": {"type": "object", "description": text if where == "parameters" else ""},
        }
        for i in range(MAX_BYTES // size + 1)
    ]
    in_dialect(many[:-1])
    with pytest.raises(InvalidRequest, match=r"all tools together are larger than 1048576 bytes") as refused:
        in_dialect(many)
    assert refused.value.param == ("functions" if in_dialect is legacy else "tools")
