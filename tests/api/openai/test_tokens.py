"""/tokenize, /detokenize, /apply-template and the models list over real HTTP."""

import pytest

from shared.protocol import Capabilities, ChatPrompt, ModelStatus, Submit
from tests.api.conftest import Stack

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("field", ["prompt", "content"])
def test_tokenize_takes_a_text_as_prompt_or_content(stack: Stack, field: str) -> None:
    body = stack.client.post("/tokenize", json={"model": "tiny", field: "Hi!"}).json()
    assert (body["tokens"], body["count"]) == ([72, 105, 33], 3)


@pytest.mark.parametrize("context_length", [2048, None])
def test_tokenize_tells_the_models_context_length_as_vllm_does(
    stack: Stack, context_length: int | None
) -> None:
    stack.broker.models = [ModelStatus(id="tiny", state="hot", context_length=context_length)]
    body = stack.client.post("/tokenize", json={"model": "tiny", "prompt": "Hi!"}).json()
    assert (body["count"], body["max_model_len"]) == (3, context_length)


def test_tokenize_takes_messages_and_their_tools(stack: Stack) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = stack.client.post("/tokenize", json={"model": "tiny", "messages": MESSAGES, "tools": tools}).json()
    assert body["count"] == 7
    asked = stack.broker.wait_for(Submit).generation
    assert isinstance(asked.prompt, ChatPrompt)
    assert asked.prompt.tools
    assert (asked.stopping.max_tokens, asked.echo) == (0, True)


def test_detokenize_returns_the_text_of_tokens(stack: Stack) -> None:
    body = stack.client.post("/detokenize", json={"model": "tiny", "tokens": [72, 105]}).json()
    assert body == {"prompt": "Hi", "content": "Hi"}


def test_apply_template_returns_the_rendered_prompt(stack: Stack) -> None:
    body = stack.client.post("/apply-template", json={"model": "tiny", "messages": MESSAGES}).json()
    assert body == {"prompt": "<chat>"}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {}), ("/detokenize", {"tokens": []}), ("/apply-template", {"messages": []})],
)
def test_tokenize_and_its_kin_name_a_missing_field(stack: Stack, path: str, body: dict[str, object]) -> None:
    response = stack.client.post(path, json={"model": "tiny", **body})
    assert response.status_code == 400
    assert response.json()["error"]["param"]


def test_a_listed_model_has_its_capabilities_or_the_reason_of_its_failure(stack: Stack) -> None:
    can = Capabilities(tools="native", reasoning=True, json_schema=True, bytes=123)
    stack.broker.models = [
        ModelStatus(id="tiny", state="hot", context_length=2048, capabilities=can),
        ModelStatus(id="org/name", state="failed", reason="no such folder"),
    ]
    hot, failed = stack.client.get("/v1/models").json()["data"]
    assert hot["capabilities"] == {
        "kind": "chat",
        "tools": "native",
        "content": "text",
        "reasoning": True,
        "json_schema": True,
        "infill": False,
        "speculation": False,
        "dimensions": None,
        "ranking": None,
        "truncates": False,
        "endpoints": [],
        "not_promised": [],
    }
    assert (hot["size"], hot["max_input_tokens"]) == (123, 2048)
    assert (failed["status"], failed["reason"], failed["capabilities"]) == ("failed", "no such folder", None)
