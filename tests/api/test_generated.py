"""Bodies made from our own OpenAPI document: whatever a client sends, it is not told that the server is at fault."""

from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.openapi import OPERATIONS, REFS, document
from tests.api.conftest import Stack

DEPTH = 4
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
POSTS = sorted({one.path for one in OPERATIONS if one.method == "post" and one.request})


def values(schema: dict[str, Any], depth: int = DEPTH) -> st.SearchStrategy[Any]:
    """Mostly what the schema allows; now and then what it does not."""
    return st.one_of(*[_fitting(schema, depth)] * 6, JUNK)


def _fitting(schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return _named(schema["$ref"].removeprefix(REFS), depth)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        return st.one_of(*(_fitting(branch, depth) for branch in branches))
    match schema.get("type"):
        case "object" if depth:
            return _object(schema, depth - 1)
        case "array" if depth:
            return st.lists(values(schema.get("items", {}), depth - 1), max_size=3)
        case "integer":
            return st.integers(-2, 200)
        case "number":
            return st.floats(-3, 3)
        case "boolean":
            return st.booleans()
        case "string":
            return st.sampled_from(["tiny", "auto"]) | st.text(max_size=8)
        case "null":
            return st.none()
    return JUNK


@cache
def _named(name: str, depth: int) -> st.SearchStrategy[Any]:
    return st.deferred(lambda: _fitting(document()["components"]["schemas"][name], depth))


def _object(schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    fields = {name: values(field, depth) for name, field in schema.get("properties", {}).items()}
    required = {name: fields.pop(name) for name in schema.get("required", []) if name in fields}
    return st.fixed_dictionaries(required, optional=fields)


@pytest.mark.slow
@pytest.mark.parametrize("path", POSTS)
def test_no_body_is_the_servers_fault(stack: Stack, path: str) -> None:
    operation = document()["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]

    @settings(max_examples=50, suppress_health_check=list(HealthCheck))
    @given(values(schema))
    def check(body: Any) -> None:
        if isinstance(body, dict):
            body.pop("stream", None)
        answer = stack.client.post(path, json=body)
        assert answer.status_code < 500, answer.text

    check()
