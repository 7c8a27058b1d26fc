"""Tools' schemas as the plainest templates can show them; on a copy, and for the template only.

References are followed, types that are lists or alternatives become one type, and every level has a description.
"""

from collections.abc import Sequence
from typing import Any

from workers.grammars.tool_grammar import resolved

Json = Any
DEPTH = 12  # of schemas in schemas; deeper ones are objects of anything


def plain_tools(tools: Sequence[Json]) -> list[Json]:
    """Idempotent."""
    return [_plain_tool(tool) for tool in tools]


def _plain_tool(tool: Json) -> Json:
    function = dict(tool.get("function") or {})
    parameters = function.get("parameters")
    function["description"] = function.get("description") or ""
    root = parameters if isinstance(parameters, dict) else {}
    plain = _plain({"type": "object", **root}, root, DEPTH)
    function["parameters"] = {key: each for key, each in plain.items() if key not in ("$defs", "definitions")}
    return {"type": "function", **tool, "function": function}


def _plain(schema: Json, root: dict[str, Json], depth: int) -> dict[str, Json]:
    schema = dict(resolved(schema, root)) if isinstance(schema, dict) else {}
    schema = _one_alternative(schema, root)
    kind = _one_type(schema)
    plain = {**schema, "type": kind, "description": str(schema.get("description") or "")}
    if kind == "object":
        properties = schema.get("properties")
        inner = properties.items() if isinstance(properties, dict) and depth else ()
        plain["properties"] = {key: _plain(each, root, depth - 1) for key, each in inner}
        plain["required"] = [key for key in schema.get("required") or () if key in plain["properties"]]
        more = schema.get("additionalProperties")
        plain["additionalProperties"] = (
            _plain(more, root, depth - 1) if isinstance(more, dict) and depth else bool(more)
        )
    if kind == "array":
        plain["items"] = (
            _plain(schema.get("items"), root, depth - 1) if depth else {"type": "object", "description": ""}
        )
    return plain


def _one_alternative(schema: dict[str, Json], root: dict[str, Json]) -> dict[str, Json]:
    """The first that is not null; what stands beside the alternatives is kept."""
    for name in ("anyOf", "oneOf", "allOf"):
        either = [each for each in schema.get(name) or () if isinstance(each, dict)]
        chosen = next((each for each in either if each.get("type") != "null"), None)
        if chosen is not None:
            rest = {key: each for key, each in schema.items() if key != name}
            return _one_alternative({**resolved(chosen, root), **rest}, root)
    return schema


def _one_type(schema: dict[str, Json]) -> str:
    kinds = schema.get("type")
    if isinstance(kinds, list):
        kinds = next((kind for kind in kinds if kind != "null"), None)
    if isinstance(kinds, str):
        return kinds if kinds != "null" else "string"
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"
