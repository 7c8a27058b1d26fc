"""What clients send as a conversation, made readable: text as text, calls whole, results beside their calls.

Arguments that a model wrote badly are repaired, names and ids that are missing are filled in. What no template shows,
such as an image, is said in words.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from workers.output.almost_json import Incomplete, Scan, parse

Json = Any
Message = dict[str, Json]
LeftOut = list[tuple[str, str]]

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_ROLES = {"developer": "system", "function": "tool"}
_ENDS = ("", '"', ": null", '": null', " null", "0")  # of a value that was cut off
_ELSE = "arguments"  # the key of arguments that are no object


def readable(messages: Sequence[Mapping[str, Json]], left_out: LeftOut) -> list[Message]:
    return [_readable(dict(message), i, left_out) for i, message in enumerate(messages)]


def _readable(message: Message, number: int, left_out: LeftOut) -> Message:
    role = _ROLES.get(message["role"], message["role"])
    content, thoughts = _thoughts_apart(message.get("content"), left_out)
    turn = {**message, "role": role, "content": _text(content, left_out)}
    thoughts = next((message[name] for name in _THOUGHTS if isinstance(message.get(name), str)), thoughts)
    for name in (*_THOUGHTS, "refusal", "function_call"):
        turn.pop(name, None)
    if thoughts:
        turn["reasoning_content"] = thoughts
    if refusal := message.get("refusal"):
        turn["content"] = "\n\n".join(filter(None, [turn["content"], str(refusal)]))
    calls = list(message.get("tool_calls") or ())
    if isinstance(message.get("function_call"), dict):
        calls.append({"function": message["function_call"]})
    turn.pop("tool_calls", None)
    if calls and role == "assistant":
        turn["tool_calls"] = [_call(call, f"call{number:03d}x{i}") for i, call in enumerate(calls)]
    return turn


def _thoughts_apart(content: Json, left_out: LeftOut) -> tuple[Json, str]:
    """A message's content without the parts that are thinking, and their text."""
    if not isinstance(content, list):
        return content, ""
    rest, thoughts = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("thinking", "reasoning"):
            said = part.get("thinking") or part.get("reasoning") or part.get("text")
            thoughts.append(_text(said, left_out))
        elif kind == "redacted_thinking":
            left_out.append(("thinking", kind))
        else:
            rest.append(part)
    return rest, "\n\n".join(filter(None, thoughts))


def _text(content: Json, left_out: LeftOut) -> str:
    """The text of a message's content: a text, a list of parts, or None."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return json.dumps(content, ensure_ascii=False)
    return "\n\n".join(filter(None, (_part(part, left_out) for part in content)))


def _part(part: Json, left_out: LeftOut) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        for name in ("text", "refusal"):
            if isinstance(part.get(name), str):
                return str(part[name])
        kind = str(part.get("type") or "part").removeprefix("input_").removesuffix("_url")
        left_out.append((kind, kind))
        return f"[{kind} left out]"
    return json.dumps(part, ensure_ascii=False)


def _call(call: Mapping[str, Json], id: str) -> Json:
    function = call.get("function") or {}
    return {
        "id": str(call.get("id") or id),
        "type": "function",
        "function": {
            "name": str(function.get("name") or "unknown"),
            "arguments": repaired(function.get("arguments")),
        },
    }


def repaired(arguments: Json) -> dict[str, Json]:
    """An object, whatever a model wrote: almost-JSON is read, what was cut off is closed, anything else gets a key."""
    if isinstance(arguments, dict):
        return arguments
    if arguments is None:
        return {}
    if not isinstance(arguments, str):
        return {_ELSE: arguments}
    if not arguments.strip():
        return {}
    try:
        value = parse(arguments)
    except Incomplete:
        value = _closed(arguments)
    except ValueError:
        value = arguments
    return value if isinstance(value, dict) else {} if value is None else {_ELSE: value}


def _closed(text: str) -> Json:
    """What was cut off, with what is missing at its end."""
    start = text.find("{")
    scan = Scan(max(start, 0))
    scan.read(text)
    for kept, end in product((text, text[:-1]), _ENDS):
        try:
            return parse(kept + end + scan.missing)
        except ValueError:
            continue
    return text


def paired(turns: Sequence[Message]) -> list[Message]:
    """Results right behind the turn that called, with its names and ids; others are a user's words."""
    done: list[Message] = []
    waiting: dict[str, str] = {}  # names by id, of calls without a result
    for turn in turns:
        if turn["role"] != "tool":
            waiting = {call["id"]: call["function"]["name"] for call in turn.get("tool_calls") or ()}
            done.append(turn)
            continue
        id = _id_of(turn, waiting)
        if id is None:
            done.append(in_words(turn))
            waiting = {}
            continue
        done.append({**turn, "tool_call_id": id, "name": waiting.pop(id)})
    return done


def _id_of(turn: Message, waiting: Mapping[str, str]) -> str | None:
    """The call that a result answers: by its id, else by its name, else the first that waits, if it has no id."""
    if (id := turn.get("tool_call_id")) in waiting:
        return str(id)
    if id:
        return None
    named = [id for id, name in waiting.items() if name == turn.get("name")]
    return next(iter(named or waiting), None)


def in_words(turn: Message) -> Message:
    """Calls and results as text, for a template that has no form for them."""
    if turn["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{turn['content']}\n</tool_response>"}
    if calls := turn.get("tool_calls"):
        said = [json.dumps(call["function"], ensure_ascii=False) for call in calls]
        lines = [f"<tool_call>{words}</tool_call>" for words in said]
        rest = {key: value for key, value in turn.items() if key != "tool_calls"}
        return {**rest, "content": "\n".join(filter(None, [turn["content"], *lines]))}
    return turn
