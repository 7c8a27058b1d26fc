"""Schemas of the kinds clients send, for tests that enforce them."""

from typing import Any


def record(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


WORD = {"type": "string", "maxLength": 8}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}

SCHEMAS: list[dict[str, Any]] = [
    record(),
    record(name=WORD, age=DIGIT),
    record(done={"type": "boolean"}),
    record(nothing={"type": "null"}),
    record(colour={"enum": ["red", "green", "blue"]}),
    record(kind={"const": "circle"}, size=DIGIT),
    record(when={"type": "string", "format": "date"}),
    record(id={"type": "string", "format": "uuid"}),
    record(code={"type": "string", "pattern": "^[A-Z]{2}[0-9]{3}$"}),
    record(tags={"type": "array", "items": WORD, "maxItems": 3}),
    record(point={"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 2}),
    record(value={"anyOf": [WORD, {"type": "null"}]}),
    record(value={"type": ["integer", "null"], "minimum": 0, "maximum": 99}),
    record(inner=record(deep=record(flag={"type": "boolean"}))),
    record(items={"type": "array", "items": record(n=DIGIT), "minItems": 1, "maxItems": 2}),
    {"type": "object", "properties": {"a": DIGIT, "b": DIGIT}, "additionalProperties": False},
    {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 1, "maxItems": 4},
    {"enum": ["yes", "no"]},
    {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tree",
        "$defs": {
            "Leaf": {"title": "Leaf", **record(n=DIGIT)},
        },
        **record(left={"$ref": "#/$defs/Leaf"}, right={"$ref": "#/$defs/Leaf"}),
    },
    record(shape={"oneOf": [record(kind={"const": "a"}, n=DIGIT), record(kind={"const": "b"})]}),
    record(share={"type": "number", "exclusiveMinimum": 0, "maximum": 1.5}),
    record(even={"type": "integer", "multipleOf": 2, "minimum": -10, "maximum": 10}),
    record(words={"type": "string", "pattern": "[ab]c", "maxLength": 6}),
    record(time={"type": "string", "format": "date-time"}, host={"type": "string", "format": "ipv4"}),
    record(row={"type": "array", "prefixItems": [WORD, DIGIT], "items": False, "minItems": 2}),
    {
        "allOf": [
            record(a=DIGIT) | {"additionalProperties": True},
            {"properties": {"b": DIGIT}, "required": ["b"]},
        ]
    }
    | {"type": "object", "additionalProperties": False, "properties": {"a": {}, "b": {}}},
    {"type": "object", "additionalProperties": DIGIT, "minProperties": 1, "maxProperties": 2},
    {
        "$defs": {"Node": record(n=DIGIT, next={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Node"}]})},
        "$ref": "#/$defs/Node",
    },
]
