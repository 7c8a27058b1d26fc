"""The cache namespace that reaches the broker, by the request's API key."""

from pathlib import Path
from typing import Any

import pytest

from shared import wire
from shared.api_keys import KeyFile
from shared.protocol import Submit
from tests.api.conftest import Stack, run_stack

HI = [{"role": "user", "content": "Hi"}]
DIALECTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "tiny", "messages": HI},
    "/v1/completions": {"model": "tiny", "prompt": ["Hi", "Ho"]},
    "/v1/messages": {"model": "tiny", "messages": HI, "max_tokens": 8},
    "/v1/responses": {"model": "tiny", "input": "Hi"},
}
KEY = "sk-a-key-that-nobody-may-read"


def submitted(stack: Stack, path: str, headers: dict[str, str]) -> list[Submit]:
    stack.broker.reset()
    assert stack.client.post(path, json=DIALECTS[path], headers=headers).status_code == 200
    return [message for message in stack.broker.received if isinstance(message, Submit)]


def namespace(stack: Stack, headers: dict[str, str], path: str = "/v1/chat/completions") -> str:
    [one] = {submit.generation.cache_namespace for submit in submitted(stack, path, headers)}
    return one


@pytest.mark.parametrize("path", DIALECTS)
def test_each_api_key_has_a_cache_namespace_of_its_own_in_every_dialect(stack: Stack, path: str) -> None:
    ours, theirs = {"authorization": f"Bearer {KEY}"}, {"authorization": "Bearer other"}
    assert len({namespace(stack, headers, path) for headers in (ours, theirs, {})}) == 3
    assert namespace(stack, ours, path) == namespace(stack, ours)


@pytest.mark.parametrize(
    "headers",
    [{"x-api-key": KEY}, {"authorization": KEY}, {"authorization": f"bearer {KEY}", "x-api-key": "other"}],
    ids=["x-api-key", "no scheme", "both"],
)
def test_an_api_key_is_the_same_caller_in_every_header(stack: Stack, headers: dict[str, str]) -> None:
    assert namespace(stack, headers) == namespace(stack, {"authorization": f"Bearer {KEY}"})


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer"}, {"x-api-key": ""}])
def test_a_request_without_an_api_key_is_anonymous(stack: Stack, headers: dict[str, str]) -> None:
    assert namespace(stack, headers) == ""


def test_the_api_key_itself_is_sent_to_no_other_process(stack: Stack) -> None:
    [submit] = submitted(stack, "/v1/chat/completions", {"authorization": f"Bearer {KEY}", "x-api-key": KEY})
    assert submit.generation.cache_namespace
    assert KEY.encode() not in b"".join(wire.frames(submit))


def test_an_operator_may_let_all_api_keys_share_the_prefix_cache() -> None:
    with run_stack(prompt_cache_shared=True) as stack:
        assert namespace(stack, {"authorization": f"Bearer {KEY}"}) == ""


def test_a_key_of_the_file_has_the_namespace_by_which_its_prompts_can_be_deleted(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    key = file.add("anna")
    with run_stack(keys_file=tmp_path / "keys.json") as stack:
        assert namespace(stack, {"authorization": f"Bearer {key}"}) == file.read()[0].digest
