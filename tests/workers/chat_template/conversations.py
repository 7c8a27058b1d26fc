"""Conversations as clients really send them, each with words that must not get lost."""

from typing import Any

Json = Any

LONG_ID = "call_0a1b2c3d4e5f6a7b8c9d"


def call(name: str, arguments: Json, id: str = LONG_ID) -> Json:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(content: Json) -> Json:
    return {"role": "user", "content": content}


def system(content: str) -> Json:
    return {"role": "system", "content": content}


def assistant(content: Json, *calls: Json, **more: Json) -> Json:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {}), **more}


def result(content: Json, id: str | None = LONG_ID, **more: Json) -> Json:
    return {"role": "tool", "content": content, **({"tool_call_id": id} if id else {}), **more}


NULLABLE = {
    "type": "object",
    "properties": {
        "city": {"type": ["string", "null"]},
        "units": {"anyOf": [{"enum": ["C", "F"]}, {"type": "null"}]},
        "more": {"type": "object", "additionalProperties": {"type": "string"}},
        "any": {},
        "list": {"type": "array", "items": {"$ref": "#/$defs/item"}},
    },
    "$defs": {"item": {"type": "object", "properties": {"n": {"type": "integer"}}}},
}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "Says how it is.", "parameters": NULLABLE},
    },
    {"type": "function", "function": {"name": "rest"}},
]
PARIS = '{"city": "alpha1"}'

CONVERSATIONS: dict[str, tuple[list[Json], list[str]]] = {
    "plain": (
        [system("alpha1"), user("beta2"), assistant("gamma3"), user("delta4")],
        ["alpha1", "beta2", "gamma3", "delta4"],
    ),
    "two users": ([user("alpha1"), user("beta2")], ["alpha1", "beta2"]),
    "late system": (
        [system("alpha1"), user("beta2"), assistant("gamma3"), system("delta4"), user("epsilon5")],
        ["alpha1", "beta2", "gamma3", "delta4", "epsilon5"],
    ),
    "two systems": ([system("alpha1"), system("beta2"), user("gamma3")], ["alpha1", "beta2", "gamma3"]),
    "developer": ([{"role": "developer", "content": "alpha1"}, user("beta2")], ["alpha1", "beta2"]),
    "assistant first": ([assistant("alpha1"), user("beta2")], ["alpha1", "beta2"]),
    "two assistants": (
        [user("alpha1"), assistant("beta2"), assistant("gamma3"), user("delta4")],
        ["alpha1", "beta2", "gamma3", "delta4"],
    ),
    "a call": (
        [user("beta2"), assistant(None, call("weather", PARIS)), result("gamma3")],
        ["alpha1", "beta2", "gamma3"],
    ),
    "cut arguments": (
        [user("beta2"), assistant("", call("weather", '{"city": "alpha1')), result("gamma3"), user("delta4")],
        ["alpha1", "beta2", "gamma3", "delta4"],
    ),
    "arguments that are a list": (
        [user("beta2"), assistant(None, call("weather", '["alpha1"]')), result("gamma3")],
        ["alpha1", "gamma3"],
    ),
    "parts": (
        [
            user([{"type": "text", "text": "alpha1"}, {"type": "text", "text": "beta2"}]),
            assistant([{"type": "text", "text": "gamma3"}]),
            user("delta4"),
        ],
        ["alpha1", "beta2", "gamma3", "delta4"],
    ),
    "result in parts with an image": (
        [
            user("alpha1"),
            assistant(None, call("rest", "")),
            result([{"type": "text", "text": "beta2"}, {"type": "image_url", "image_url": {"url": "x"}}]),
        ],
        ["alpha1", "beta2", "image"],
    ),
    "orphan result": (
        [user("alpha1"), result("beta2", "call_x"), user("gamma3")],
        ["alpha1", "beta2", "gamma3"],
    ),
    "several calls": (
        [
            user("beta2"),
            assistant(None, call("weather", PARIS, "a"), call("weather", '{"city": "gamma3"}', "b")),
            result("delta4", "b"),
            result("epsilon5", "a"),
            user("zeta6"),
        ],
        ["alpha1", "beta2", "gamma3", "delta4", "epsilon5", "zeta6"],
    ),
    "text beside a call": (
        [
            user("beta2"),
            assistant("gamma3", call("weather", PARIS), reasoning="eta7"),
            result("delta4", None),
            assistant("epsilon5"),
        ],
        ["alpha1", "beta2", "gamma3", "delta4", "epsilon5", "eta7"],
    ),
    "unanswered call": (
        [user("beta2"), assistant("", call("weather", PARIS)), user("gamma3")],
        ["alpha1", "beta2", "gamma3"],
    ),
    "system alone": ([system("alpha1")], ["alpha1"]),
    "three systems": (
        [system("alpha1"), system("beta2"), system("gamma3"), user("delta4")],
        ["alpha1", "beta2", "gamma3", "delta4"],
    ),
    "system between users": (
        [user("alpha1"), system("beta2"), user("gamma3")],
        ["alpha1", "beta2", "gamma3"],
    ),
    "an answer of no words": ([user("alpha1"), assistant(None), user("beta2")], ["alpha1", "beta2"]),
    "an answer of thinking only": (
        [user("alpha1"), assistant("", reasoning_content="beta2"), user("gamma3")],
        ["alpha1", "beta2", "gamma3"],
    ),
    "thinking as a part": (
        [
            user("alpha1"),
            assistant([{"type": "thinking", "thinking": "beta2"}, {"type": "text", "text": "gamma3"}]),
        ],
        ["alpha1", "beta2", "gamma3"],
    ),
    "thinking in the content": (
        [user("alpha1"), assistant("<think>beta2</think>gamma3"), user("delta4")],
        ["alpha1", "beta2", "gamma3", "delta4"],
    ),
    "a call first": (
        [assistant(None, call("weather", PARIS)), result("beta2"), user("gamma3")],
        ["alpha1", "beta2", "gamma3"],
    ),
    "no user": (
        [system("beta2"), assistant(None, call("weather", PARIS)), result("gamma3")],
        ["alpha1", "beta2", "gamma3"],
    ),
    "short ids": (
        [user("beta2"), assistant(None, call("weather", PARIS, "x")), result("gamma3", "x")],
        ["alpha1", "beta2", "gamma3"],
    ),
    "text beside the second call": (
        [
            user("beta2"),
            assistant(None, call("weather", PARIS, "a")),
            result("gamma3", "a"),
            assistant("delta4", call("weather", '{"city": "epsilon5"}', "b")),
            result("zeta6", "b"),
        ],
        ["alpha1", "beta2", "gamma3", "delta4", "epsilon5", "zeta6"],
    ),
    "system in a tool loop": (
        [system("alpha1"), user("beta2"), assistant(None, call("rest", "")), result("gamma3")],
        ["alpha1", "beta2", "gamma3"],
    ),
    "system before a prefill": (
        [system("alpha1"), user("beta2"), assistant("gamma3")],
        ["alpha1", "beta2", "gamma3"],
    ),
}
