"""What a prompt becomes, asked without an answer behind it."""

import pytest

from shared.protocol import Capabilities, ChatPrompt, ModelStatus, Submit
from tests.api.conftest import Stack

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("field", ["prompt", "content"])
def test_a_text_becomes_tokens_under_either_name(stack: Stack, field: str) -> None:
    body = stack.client.post("/tokenize", json={"model": "tiny", field: "Hi!"}).json()
    assert (body["tokens"], body["count"]) == ([72, 105, 33], 3)


def test_messages_become_tokens_with_the_tools_they_may_call(stack: Stack) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = stack.client.post("/tokenize", json={"model": "tiny", "messages": MESSAGES, "tools": tools}).json()
    assert body["count"] == 7
    asked = stack.broker.wait_for(Submit).generation
    assert isinstance(asked.prompt, ChatPrompt)
    assert asked.prompt.tools
    assert (asked.stopping.max_tokens, asked.echo) == (0, True)


def test_tokens_become_a_text(stack: Stack) -> None:
    body = stack.client.post("/detokenize", json={"model": "tiny", "tokens": [72, 105]}).json()
    assert body == {"prompt": "Hi", "content": "Hi"}


def test_a_template_is_shown(stack: Stack) -> None:
    body = stack.client.post("/apply-template", json={"model": "tiny", "messages": MESSAGES}).json()
    assert body == {"prompt": "<chat>"}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {}), ("/detokenize", {"tokens": []}), ("/apply-template", {"messages": []})],
)
def test_what_is_missing_is_named(stack: Stack, path: str, body: dict[str, object]) -> None:
    response = stack.client.post(path, json={"model": "tiny", **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"]


def test_a_model_shows_what_it_can_and_why_it_failed(stack: Stack) -> None:
    can = Capabilities(tools=True, reasoning=True, json_schema=True, bytes=123)
    stack.broker.models = [
        ModelStatus(id="tiny", state="hot", context_length=2048, capabilities=can),
        ModelStatus(id="org/name", state="failed", reason="no such folder"),
    ]
    hot, failed = stack.client.get("/v1/models").json()["data"]
    assert hot["capabilities"] == {
        "tools": True,
        "reasoning": True,
        "json_schema": True,
        "infill": False,
    }
    assert (hot["size"], hot["max_input_tokens"]) == (123, 2048)
    assert (failed["status"], failed["reason"], failed["capabilities"]) == ("failed", "no such folder", None)
