"""``truncation: auto``: what is dropped from a conversation that is too long."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.responses.schemas import INPUT_ITEMS, FunctionCallItem, FunctionCallOutputItem
from api.responses.truncation import fewer
from shared.errors import ContextLengthExceeded
from shared.protocol import ChatPrompt, Refused, Submit
from tests.api.conftest import Stack
from tests.api.fake_broker import saying
from tests.api.responses.test_resource import post


def turns(count: int) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": f"{i} " + "word " * 20} for i in range(count)]


def with_room_for(characters: int) -> Any:
    """A script that refuses longer prompts as a worker does."""

    def script(submit: Submit) -> Any:
        prompt = submit.generation.prompt
        assert isinstance(prompt, ChatPrompt)
        size = sum(len(message["content"]) for message in prompt.messages)
        if size <= characters:
            yield from saying({"text": "ok"})(submit)
            return
        error = ContextLengthExceeded("too long", prompt_tokens=size, context_length=characters)
        yield Refused(request_id=submit.request_id, attempt=submit.attempt, failure=error.to_failure())

    return script


@pytest.mark.parametrize("stream", [False, True])
def test_truncation_auto_drops_the_beginning_of_a_conversation_that_is_too_long(
    stack: Stack, stream: bool
) -> None:
    stack.broker.script = with_room_for(500)
    system = {"role": "system", "content": "Be brief."}
    asked = {"input": [system, *turns(41)], "instructions": "Be kind.", "stream": stream}
    assert post(stack, **asked).status_code == 400
    stack.broker.received.clear()
    assert post(stack, **asked, truncation="auto").status_code == 200
    submits = [message for message in stack.broker.received if isinstance(message, Submit)]
    prompt = submits[-1].generation.prompt
    assert isinstance(prompt, ChatPrompt) and len(submits) <= 4
    said = prompt.messages
    assert [message["content"] for message in said[:2]] == ["Be kind.", "Be brief."]
    assert said[2]["role"] == "user" and said[-1]["content"].startswith("40 ") and len(said) >= 5


def test_truncation_auto_refuses_a_last_item_that_is_too_long(stack: Stack) -> None:
    stack.broker.script = with_room_for(50)
    refused = post(stack, input=turns(3), truncation="auto")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


@given(
    st.lists(st.sampled_from(["user", "assistant", "system", "call", "output"]), min_size=1, max_size=12),
    st.integers(0, 400),
)
def test_truncation_keeps_an_end_of_the_conversation_and_all_system_messages(
    kinds: list[str], tokens: int
) -> None:
    items = INPUT_ITEMS.validate_python([as_item(kind, i) for i, kind in enumerate(kinds)])
    error = ContextLengthExceeded("too long", prompt_tokens=tokens, context_length=100)
    try:
        left = fewer(items, error)
    except ContextLengthExceeded:
        return
    assert len(left) < len(items) and left[-1] == items[-1]
    systems = [one for one in items if getattr(one, "role", "") == "system"]
    assert [one for one in left if getattr(one, "role", "") == "system"] == systems
    rest = [one for one in left if one not in systems]
    assert rest == [one for one in items if one not in systems][len(items) - len(systems) - len(rest) :]
    assert not rest or rest[0].type != "function_call_output"
    calls = {one.call_id for one in items if isinstance(one, FunctionCallItem)}
    kept = {one.call_id for one in left if isinstance(one, FunctionCallItem)}
    answered = {one.call_id for one in left if isinstance(one, FunctionCallOutputItem)}
    assert not (calls - kept) & answered


def as_item(kind: str, i: int) -> dict[str, Any]:
    match kind:
        case "call":
            return {"type": "function_call", "call_id": f"c{i % 4}", "name": "f", "arguments": "{}"}
        case "output":
            return {"type": "function_call_output", "call_id": f"c{(i - 2) % 4}", "output": f"{i}"}
        case role:
            return {"role": role, "content": f"{i}"}
