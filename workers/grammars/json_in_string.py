r"""The grammar of arguments that a call format writes as JSON text in a JSON string: ``"arguments": "{\"a\": 1}"``.

Each quote and backslash of the inner text is escaped once more. A schema's kinds, properties, choices and required keys
are enforced; bounds, lengths and patterns are left to the model, as in formats that write strings without quotes.
"""

import json
from collections.abc import Iterator
from typing import Any

from workers.grammars.references import resolved

Schema = dict[str, Any]

LEVELS, MOST_RULES = 6, 2000  # beyond them any value of the right kind
# Of the inner text as it stands in the outer one; \\ are two backslashes there, and \" is a quote.
_STRING = r"""/\\"([^"\\\x00-\x1f\x7f]|\\\\(\\"|\\\\|[bfnrt]|u[0-9a-cA-Ce-fE-F][0-9a-fA-F]{3}))*\\"/"""
_INTEGER = r"/-?(0|[1-9][0-9]{0,17})/"
_NUMBER = r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?/"
_COMMA, _COLON = "/, ?/", "/: ?/"
_ANY = "jt_any"
_FREE = f"""jt_string: {_STRING}
jt_object: "{{" "}}" | "{{" jt_member ({_COMMA} jt_member)* "}}"
jt_member: jt_string {_COLON} {_ANY}
jt_array: "[" "]" | "[" {_ANY} ({_COMMA} {_ANY})* "]"
{_ANY}: jt_string | {_NUMBER} | "true" | "false" | "null" | jt_object | jt_array"""
_OF_KIND = {
    "string": "jt_string",
    "integer": _INTEGER,
    "number": _NUMBER,
    "boolean": '("true" | "false")',
    "null": '"null"',
    "object": "jt_object",
    "array": "jt_array",
}


class JsonInString:
    """Writes the rules of one tool's arguments. ``rules`` is added to; ``names`` begin with ``prefix``."""

    def __init__(self, root: Schema, prefix: str, rules: list[str]) -> None:
        self._root, self._prefix, self._rules, self._count = root, prefix, rules, 0
        if _FREE not in rules:
            rules.append(_FREE)

    def arguments(self) -> str:
        """An object, between the quotes of the outer string."""
        return self._object(resolved(self._root, self._root), 0)

    def _value(self, schema: Any, level: int) -> str:
        schema = resolved(schema, self._root)
        if level > LEVELS or len(self._rules) > MOST_RULES:
            return _ANY
        if choices := ([schema["const"]] if "const" in schema else schema.get("enum")):
            return self._either(map(_constant, choices))
        if either := schema.get("anyOf") or schema.get("oneOf"):
            return self._either(self._value(each, level + 1) for each in either)
        kinds = schema.get("type") or ("object" if "properties" in schema else None)
        if isinstance(kinds, list):
            return self._either(self._value({**schema, "type": kind}, level + 1) for kind in kinds)
        if kinds == "object" and schema.get("properties"):
            return self._object(schema, level)
        if kinds == "array" and schema.get("items"):
            return self._array(schema, level)
        return _OF_KIND.get(str(kinds), _ANY)

    def _object(self, schema: Schema, level: int) -> str:
        """The properties in the schema's order; each has a rule as the first member, and one as a later one."""
        required, given = set(schema.get("required") or ()), schema.get("properties") or {}
        properties = {**given, **{key: {} for key in sorted(required - set(given))}}
        if not properties:
            return "jt_object" if schema.get("additionalProperties", True) is not False else '"{" "}"'
        first = more = '""'
        for key, value in reversed(properties.items()):
            member = self._rule(f"{_literal(key)} {_COLON} {self._value(value, level + 1)}")
            alone, with_comma = f"{member} {more}", f"{_COMMA} {member} {more}"
            first = self._rule(alone if key in required else f"{alone} | {first}")
            more = self._rule(with_comma if key in required else f"{with_comma} | {more}")
        return f'"{{" {first} "}}"'

    def _array(self, schema: Schema, level: int) -> str:
        item = self._rule(self._value(schema["items"], level + 1))
        some = f'"[" {item} ({_COMMA} {item})* "]"'
        return some if schema.get("minItems") else self._either(iter(('"[" "]"', some)))

    def _either(self, bodies: Iterator[str]) -> str:
        return self._rule(" | ".join(bodies))

    def _rule(self, body: str) -> str:
        self._count += 1
        name = f"{self._prefix}_j{self._count}"
        self._rules.append(f"{name}: {body}")
        return name


def escaped(text: str) -> str:
    """As it stands between the quotes of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _constant(value: Any) -> str:
    """Containers are written part by part: the lexer would take one literal for the only thing that begins so."""
    if isinstance(value, dict):
        members = (f"{_literal(key)} {_COLON} {_constant(each)}" for key, each in value.items())
        return f'"{{" {f" {_COMMA} ".join(members)} "}}"'
    if isinstance(value, list):
        return f'"[" {f" {_COMMA} ".join(map(_constant, value))} "]"'
    return _literal(value)


def _literal(value: Any) -> str:
    """A JSON value, escaped, as a literal of Lark."""
    return json.dumps(escaped(json.dumps(value, ensure_ascii=False)))
