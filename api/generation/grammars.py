"""Bounds the JSON schemas that a worker is asked to enforce. Pure."""

from collections.abc import Iterator
from typing import Any

from pydantic_core import to_json

from api.generation.parse import deeper_than
from api.generation.refusals import wrong
from shared.protocol import Grammar

MAX_BYTES = 64 << 10
MAX_DEPTH = 32


def grammar(schema: dict[str, Any] | None, param: str) -> Grammar:
    """Without a schema, any JSON object matches. Raises InvalidRequest that names ``param``."""
    if schema is not None:
        check_schema(schema, param)
    return Grammar(json_schema=schema, param=param)


def check_schema(schema: dict[str, Any], param: str) -> None:
    if len(to_json(schema)) > MAX_BYTES:
        raise wrong(param, f"the schema is larger than {MAX_BYTES} bytes")
    if deeper_than(MAX_DEPTH, schema):
        raise wrong(param, f"the schema is nested more than {MAX_DEPTH} levels deep")
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise wrong(param, "a $ref must begin with '#': nothing is fetched from elsewhere")


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            yield reference
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from _references(inner)
