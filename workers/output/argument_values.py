"""What a value of a tagged call means, which is written without its type: the tool's schema decides.

A text that does not fit its schema's type is passed on as text, so that the client sees what the model wrote.
"""

from collections.abc import Mapping
from typing import Any

from workers.grammars.tool_grammar import resolved
from workers.output.almost_json import parse

Json = Any
Schema = Mapping[str, Any]

_SIMPLE = {"null": type(None), "boolean": bool, "object": dict, "array": list, "string": str}


def value_of(text: str, schema: Json, root: Schema, quotes: tuple[str, str] | None = None) -> Json:
    """``schema``: the argument's, inside of ``root``; ``quotes``: around strings inside of the value."""
    kinds = kinds_of(schema, root)
    if kinds == {"string"}:
        return text
    try:
        value = parse(text, quotes)
    except ValueError:
        return text
    if isinstance(value, str):
        return text  # JSON in quotes, where the format has none
    if not kinds:
        return value
    if not any(_fits(value, kind) for kind in kinds):
        return text
    return (
        text
        if "string" in kinds and isinstance(value, int | float) and not isinstance(value, bool)
        else value
    )


def kinds_of(schema: Json, root: Schema, depth: int = 8) -> set[str]:
    """The types that a schema allows; empty: any."""
    if not isinstance(schema, dict) or depth == 0:
        return set()
    schema = resolved(schema, dict(root))
    if "const" in schema or isinstance(schema.get("enum"), list):
        return {kind_of(each) for each in schema.get("enum", [schema.get("const")])}
    kinds = schema.get("type")
    if isinstance(kinds, str):
        return {kinds} | ({"null"} if schema.get("nullable") is True else set())
    if isinstance(kinds, list):
        return {kind for kind in kinds if isinstance(kind, str)}
    found: set[str] = set()
    for each in schema.get("anyOf") or schema.get("oneOf") or ():
        either = kinds_of(each, root, depth - 1)
        if not either:
            return set()
        found |= either
    return found


def kind_of(value: Json) -> str:
    for kind, python in _SIMPLE.items():
        if isinstance(value, python):
            return kind
    return "integer" if isinstance(value, int) else "number"


def _fits(value: Json, kind: str) -> bool:
    if kind in _SIMPLE:
        return isinstance(value, _SIMPLE[kind])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return kind == "number" or isinstance(value, int) or value.is_integer()


def schema_at(root: Schema, key: str) -> Json:
    """The schema of a tool's argument; empty if it says nothing of it."""
    properties = resolved(dict(root), dict(root)).get("properties")
    found = properties.get(key, {}) if isinstance(properties, dict) else {}
    return found if isinstance(found, dict) else {}


def tagged_value(
    text: str, opens: tuple[str, str], closes: tuple[str, str], schema: Json, root: Schema
) -> Json:
    """Reads an object or a list that is written as nested tags. Raises ValueError."""
    children = list(_children(text, opens, closes))
    if not children:
        kinds = kinds_of(schema, root)
        if not text and kinds & {"object", "array"}:
            return {} if "object" in kinds else []
        return value_of(text, schema, root)
    schema = resolved(schema, dict(root)) if isinstance(schema, dict) else {}
    if all(key == "item" for key, _ in children) and kinds_of(schema, root) != {"object"}:
        items = schema.get("items") or {}
        return [tagged_value(inner, opens, closes, items, root) for _, inner in children]
    return {key: tagged_value(inner, opens, closes, schema_at(schema, key), root) for key, inner in children}


def _children(text: str, opens: tuple[str, str], closes: tuple[str, str]) -> Any:
    at = 0
    while at < len(text):
        if not text.startswith(opens[0], at) or (end := text.find(opens[1], at + len(opens[0]))) < 0:
            if at == 0:
                return
            raise ValueError("text between tags")
        key = text[at + len(opens[0]) : end]
        start = end + len(opens[1])
        stop = _matching(text, start, opens[0] + key + opens[1], closes[0] + key + closes[1])
        yield key, text[start:stop]
        at = stop + len(closes[0] + key + closes[1])


def _matching(text: str, at: int, opened: str, closed: str) -> int:
    depth = 1
    while True:
        end = text.index(closed, at)
        depth += text.count(opened, at, end) - 1
        if depth == 0:
            return end
        at = end + len(closed)
