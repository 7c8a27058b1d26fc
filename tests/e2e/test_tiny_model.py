"""The real engine on a tiny model, through the whole server: what is refused by name, what the prefix cache serves.

A schema that the worker cannot enforce is a 400 that names the field, in every dialect, streamed and whole.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stack import Stack
from tests.tiny_model import make_tiny_llama


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def inside(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, "required": ["a"]}


REFUSED: dict[str, dict[str, Any]] = {
    "a keyword": inside({"not": {"type": "string"}}),
    "elsewhere": inside({"$ref": "https://example.com/schema.json"}),
    "70 KiB": inside({"description": "x" * (70 << 10)}),
    "40 levels": nested(40),
    "a pattern": inside({"type": "string", "pattern": "(a+"}),
    "a type": inside({"type": "strin"}),
    "nowhere": inside({"$ref": "#/$defs/missing"}),
}
SAID = [{"role": "user", "content": "Hi"}]


def chat(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "messages": SAID,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }


def responses(schema: dict[str, Any]) -> dict[str, Any]:
    return {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}


def messages(schema: dict[str, Any]) -> dict[str, Any]:
    wanted = {"format": {"type": "json_schema", "schema": schema}}
    return {"messages": SAID, "max_tokens": 8, "output_config": wanted}


DIALECTS = {
    "/v1/chat/completions": (chat, "response_format"),
    "/v1/responses": (responses, "text.format.schema"),
    "/v1/messages": (messages, None),
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    tiny = make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    stack = Stack({"available_models": f"tiny={tiny}"})
    try:
        stack.http.post("/v1/completions", json={"model": "tiny", "prompt": "a", "max_tokens": 1}, timeout=90)
        yield stack
    finally:
        stack.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", DIALECTS)
@pytest.mark.parametrize("what", REFUSED)
def test_a_schema_that_cannot_be_enforced_is_a_400(stack: Stack, what: str, path: str, stream: bool) -> None:
    body, param = DIALECTS[path]
    answer = stack.http.post(path, json={"model": "tiny", "stream": stream, **body(REFUSED[what])})
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.json()["error"]
    assert "schema" in error["message"] or "$ref" in error["message"], error
    assert error.get("param") == param and error["type"] == "invalid_request_error"


def test_a_suffix_for_a_model_without_infill_tokens_is_a_400_and_the_models_list_says_so(
    stack: Stack,
) -> None:
    for stream in (False, True):
        body = {"model": "tiny", "prompt": "a", "suffix": "b", "stream": stream}
        answer = stack.http.post("/v1/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "suffix")
    capabilities = stack.http.get("/v1/models/tiny").json()["capabilities"]
    assert (capabilities["infill"], capabilities["json_schema"]) == (False, True)


def test_a_prompt_beyond_the_context_is_refused_by_name(stack: Stack) -> None:
    body = {"model": "tiny", "prompt": "word " * 300, "max_tokens": 100}
    answer = stack.http.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_a_cached_prefix_serves_the_api_key_that_made_it_and_no_other(stack: Stack) -> None:
    def cached(key: str) -> int:
        body = {"model": "tiny", "prompt": "word " * 20, "max_tokens": 1}
        answer = stack.http.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"})
        tokens: int = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        return tokens

    assert [cached("ours"), cached("theirs")] == [0, 0]
    assert cached("ours") == cached("theirs") > 0
