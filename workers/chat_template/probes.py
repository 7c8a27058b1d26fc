"""What is asked of a chat template to learn how it writes: conversations and awkward calls, as data.

Sentinels are words that stand in no template. Everything is built anew for each use; nothing here renders.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.chat_template.environment import Json, Message

USER, SYSTEM, TEXT, RESULT, THOUGHT = "zquserq", "zqsystemq", "zqtextq", "zqresultq", "zqthoughtq"
NAME, OTHER_NAME = "zqnameq", "zqotherq"
KEYS = ("zqkeyaq", "zqkeybq")
VALUES = ("zqvalueaq", "zqvaluebq")
IDS = (
    "zqida0001",
    "zqidb0002",
    "zqidc0003",
    "zqidd0004",
)  # nine letters or digits, as Mistral's templates demand


@dataclass(frozen=True)
class ProbeCall:
    name: str
    arguments: Mapping[str, Json]


def user(content: Json = USER) -> Message:
    return {"role": "user", "content": content}


def system(content: Json = SYSTEM) -> Message:
    return {"role": "system", "content": content}


def assistant(content: Json = TEXT, **more: Json) -> Message:
    return {"role": "assistant", "content": content, **more}


def calling(
    calls: Sequence[ProbeCall],
    content: Json = "",
    ids: Sequence[str] = IDS,
    as_text: bool = False,
    **more: Json,
) -> Message:
    """``as_text``: the arguments as JSON text, as clients send them."""
    made = [_call(call, ids[i], as_text) for i, call in enumerate(calls)]
    return assistant(content, tool_calls=made, **more)


def _call(call: ProbeCall, id: str, as_text: bool) -> Json:
    arguments = dict(call.arguments)
    function = {"name": call.name, "arguments": json.dumps(arguments) if as_text else arguments}
    return {"id": id, "type": "function", "function": function}


def result(content: Json = RESULT, id: str = IDS[0], name: str = NAME) -> Message:
    return {"role": "tool", "content": content, "tool_call_id": id, "name": name}


def tool(name: str, parameters: Json | None = None) -> Json:
    described = {"name": name, "description": f"About {name}.", "parameters": parameters or schema_of({})}
    return {"type": "function", "function": described}


def tools_for(*calls: ProbeCall) -> list[Json]:
    """Tools whose schemas fit all of these calls."""
    properties: dict[str, dict[str, Json]] = {}
    for call in calls:
        properties.setdefault(call.name, {}).update(call.arguments)
    return [tool(name, schema_of(arguments)) for name, arguments in properties.items()]


def schema_of(value: Json) -> dict[str, Json]:
    """The plainest schema of a value, with the descriptions that some templates cannot do without."""
    match value:
        case bool():
            kind: dict[str, Any] = {"type": "boolean"}
        case int():
            kind = {"type": "integer"}
        case float():
            kind = {"type": "number"}
        case str():
            kind = {"type": "string"}
        case None:
            kind = {"type": "null"}
        case list():
            kind = {
                "type": "array",
                "items": schema_of(value[0]) if value else {"type": "string", "description": ""},
            }
        case _:
            properties = {key: schema_of(each) for key, each in value.items()}
            kind = {"type": "object", "properties": properties, "required": list(value)}
    return {**kind, "description": ""}


PLAIN = ProbeCall(NAME, dict(zip(KEYS, VALUES, strict=True)))
CHAT = (user(),)


@dataclass(frozen=True)
class Probe:
    """Calls that must be read as they were rendered. ``core``: without it a form is not native."""

    name: str
    calls: tuple[ProbeCall, ...]
    core: bool = True
    text: str = ""


def _one(name: str, core: bool = True, called: str = "f", **arguments: Json) -> Probe:
    return Probe(name, (ProbeCall(called, arguments),), core)


def probes(end_of_argument: str, end_of_call: str, opening: str, whole_end: str) -> list[Probe]:
    """``end_of_argument`` … are marks of the form that is proved, each without those around it."""
    return [
        _one("plain", word="Paris", unit="C"),
        _one("empty arguments"),
        _one("nested", where={"at": [1, {"deep": ["x", "y"]}], "name": "n"}, tags=["a", "b"]),
        _one("quotes", text="He said \"it's\" and 'so' `too`", more="'", third='"'),
        _one("lines", text="first\nsecond\tthird\r\nfourth\n\nlast"),
        _one("backslashes", text="C:\\new\\table \\\\ \\u0041 \\n \\'", path="\\d+\\.txt"),
        _one("end of call", text=f"before {end_of_call} behind", n=3),
        _one("end of argument", text=f"before {end_of_argument} behind", n=3),
        _one("opening", text=f"before {opening} behind", n=3),
        _one("markup", xml='<a href="x">b &amp; c</a>', json='{"a": [1, "}"], "b": null}'),
        _one("unicode", text="naïve 日本語 🐝 e\u0301 \u2028 \u00a0x", größe="ä"),
        _one("numbers", big=12345678901234567890123, less=-7, small=1.5e-7, whole=2.0, zero=0),
        _one("constants", yes=True, no=False, nothing=None),
        _one("looks like", number="42", nothing="null", yes="true", json='{"a": 1}', list="[1]", empty=""),
        Probe("two calls", (ProbeCall("f", {"a": "x"}), ProbeCall("g", {"b": 2}))),
        Probe("twice the same", (ProbeCall("f", {"a": "x"}), ProbeCall("f", {"a": "x"}))),
        Probe("two empty", (ProbeCall("f", {}), ProbeCall("g", {}))),
        Probe("text before", (ProbeCall("f", {"a": "x"}),), text="Let me see."),
        _one("whole end", core=False, text=f"before {whole_end} behind", n=3),
        _one("blanks", core=False, text="  two blanks around  ", lines="\nline\n"),
        _one("empty inside", core=False, where={"list": [], "object": {}}, list=[]),
        _one("dotted name", core=False, called="mcp.files.read-b_c", path="/x"),
        _one("name with a colon", core=False, called="srv:files/read", path="/x"),
        Probe("odd keys", (ProbeCall("f", {"$ref": "x", "a b": "y", "a-b": "z"}),), core=False),
        _one("long", core=False, text="0123456789 abc\n" * 3600),
    ]
