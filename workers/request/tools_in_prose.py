"""Describes tools in the system message for models whose chat template does not support tools; calls are JSON.

Calls and tool results of earlier turns become text too, because such a template cannot show them.
"""

import json
from typing import Any

from shared.protocol import ChatPrompt
from workers.output.tool_formats import PLAIN

_INTRODUCTION = (
    "You can use these tools, one JSON description a line:\n{tools}\n\n"
    "To use a tool, write its name and arguments as JSON between marks, like this:\n"
    '{start}{{"name": "tool", "arguments": {{"key": "value"}}}}{end}'
)


def in_plain_words(prompt: ChatPrompt) -> ChatPrompt:
    """The conversation without roles and fields of tools, which are described in prose."""
    messages = [_plain(message) for message in prompt.messages]
    if prompt.tools:
        messages = _with_system(_introduction(prompt.tools), messages)
    return prompt.model_copy(update={"messages": messages, "tools": None})


def _introduction(tools: list[dict[str, Any]]) -> str:
    lines = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    return _INTRODUCTION.format(tools=lines, start=PLAIN.start, end=PLAIN.end)


def _with_system(words: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if messages and messages[0]["role"] == "system":
        first = messages[0]
        return [{**first, "content": f"{first.get('content') or ''}\n\n{words}".strip()}, *messages[1:]]
    return [{"role": "system", "content": words}, *messages]


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {
            "role": "user",
            "content": f"<tool_response>\n{message.get('content') or ''}\n</tool_response>",
        }
    if calls := message.get("tool_calls"):
        text = "\n".join(filter(None, [message.get("content"), *map(_call, calls)]))
        return {"role": message["role"], "content": text}
    return message


def _call(call: dict[str, Any]) -> str:
    function = call.get("function") or {}
    arguments = function.get("arguments") or "{}"
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return f'{PLAIN.start}{{"name": {json.dumps(function.get("name"))}, "arguments": {arguments}}}{PLAIN.end}'
