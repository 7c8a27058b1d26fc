"""LiteLLM: a chat, a stream with usage, a tool call, json_schema, the Anthropic bridge, its mapping of errors."""

import asyncio
import json
import sys
from typing import Any, Literal

import litellm
from pydantic import BaseModel

_, URL, MODEL = sys.argv
OURS: dict[str, Any] = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": "none", "num_retries": 0}
ASKED = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Place(BaseModel):
    name: Literal["Paris", "Rome"]
    is_city: bool


def ask(**fields: Any) -> Any:
    return litellm.completion(**{"messages": ASKED, "temperature": 0, "max_tokens": 40, **OURS, **fields})


def mapped(**fields: Any) -> str:
    try:
        ask(**fields)
    except Exception as error:  # noqa: BLE001 — its errors have no base of their own
        return type(error).__name__
    return "no error"


plain = ask()
chunks = list(ask(stream=True, stream_options={"include_usage": True}))
called = ask(tools=[WEATHER], tool_choice="required").choices[0].message
[call] = called.tool_calls
result = {"role": "tool", "tool_call_id": call.id, "name": "weather", "content": "sunny"}
after = ask(messages=[*ASKED, called.model_dump(), result], tools=[WEATHER])
bridged = asyncio.run(
    litellm.anthropic.messages.acreate(messages=ASKED, max_tokens=20, temperature=0, **OURS)
)
print(
    json.dumps(
        {
            "chat": plain.choices[0].message.content,
            "stream": [one.choices[0].delta.content or "" for one in chunks if one.choices],
            "usage": plain.usage.model_dump(),
            "stream_usage": [one.usage.model_dump() for one in chunks if getattr(one, "usage", None)],
            "call": {"name": call.function.name, "args": json.loads(call.function.arguments)},
            "after": after.choices[0].message.content,
            "place": json.loads(ask(response_format=Place).choices[0].message.content),
            "bridged": bridged["content"][0]["text"],
            "too_long": mapped(messages=[{"role": "user", "content": "word " * 20_000}]),
            "unknown": mapped(model="openai/nobody"),
            "refused": mapped(max_tokens=0),
        }
    )
)
