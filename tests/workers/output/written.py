"""Writes calls in a call format: the inverse of the reader, for tests that read them again."""

import json
from collections.abc import Sequence
from typing import Any

from workers.chat_template.call_format import COUNT_HOLE, ID_HOLE, KEY_HOLE, NAME_HOLE, CallFormat
from workers.chat_template.probes import ProbeCall

_TYPES: dict[type, str] = {
    bool: "boolean",
    int: "number",
    float: "number",
    dict: "object",
    list: "array",
    type(None): "null",
}


def write(format: CallFormat, calls: Sequence[ProbeCall]) -> str:
    if format.kind == "json_list":
        body = "[" + ", ".join(_as_json(_object(format, call)) for call in calls) + "]"
    else:
        body = _filled(format.between, "", 0).join(_call(format, call, i) for i, call in enumerate(calls))
    return _filled(format.outer[0], calls[0].name, 0) + body + format.outer[1]


def _call(format: CallFormat, call: ProbeCall, index: int) -> str:
    match format.kind:
        case "json":
            body = _as_json(_object(format, call))
        case "name_json":
            body = _as_json(dict(call.arguments))
        case _:
            body = format.comma.join(_argument(format, key, value) for key, value in call.arguments.items())
    return _filled(format.opening, call.name, index) + body + format.closing


def _object(format: CallFormat, call: ProbeCall) -> Any:
    arguments: Any = dict(call.arguments)
    if format.arguments_as_text:
        arguments = _as_json(arguments)
    if format.name_is_key:
        return {call.name: arguments}
    return {str(format.name[0]): call.name, str(format.arguments[0]): arguments}


def _argument(format: CallFormat, key: str, value: Any) -> str:
    mark = format.key_by_type.get(_TYPES.get(type(value), ""), format.key)
    return mark.replace(KEY_HOLE, key) + _value(format, value) + format.after.replace(KEY_HOLE, key)


def _value(format: CallFormat, value: Any) -> str:
    if isinstance(value, str):
        return _string(format, value)
    if format.values == "loose":
        return _loose(format, value)
    if format.values == "tags":
        return _tags(format, value)
    return repr(value) if format.values == "python" else _as_json(value)


def _string(format: CallFormat, text: str) -> str:
    before, behind = format.quotes
    if format.escaped:
        text = _as_json(text)[1:-1]
        text = text.replace('\\"', '"').replace("'", "\\'") if before == "'" else text
    if format.wrapper[0] and set(text) & set("<&"):
        text = format.wrapper[0] + text.replace("]]>", "]]]]><![CDATA[>") + format.wrapper[1]
    return before + text + behind


def _loose(format: CallFormat, value: Any) -> str:
    match value:
        case str():
            return _string(format, value)
        case dict():
            return "{" + ",".join(f"{key}:{_loose(format, each)}" for key, each in value.items()) + "}"
        case list():
            return "[" + ",".join(_loose(format, each) for each in value) + "]"
    return _as_json(value)


def _tags(format: CallFormat, value: Any) -> str:
    match value:
        case str():
            return value
        case dict():
            items = list(value.items())
        case list():
            items = [("item", each) for each in value]
        case _:
            return _as_json(value)
    return "".join(
        format.key.replace(KEY_HOLE, key) + _tags(format, each) + format.after.replace(KEY_HOLE, key)
        for key, each in items
    )


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _filled(mark: str, name: str, index: int) -> str:
    mark = mark.replace(NAME_HOLE, name).replace(COUNT_HOLE, str(index))
    return mark.replace(ID_HOLE, f"abcdefgh{index}")
