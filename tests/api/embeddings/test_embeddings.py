"""POST /v1/embeddings: what goes to the worker, what comes back, and what never gets there."""

import base64
import struct
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from openai import OpenAI
from pydantic import BaseModel

from shared.protocol import Chunks, Delta, Embedding, Finish, FinishReason, Start, Submit, Vectors
from tests.api.conftest import Stack

TOKENS = 5


def vectors(submit: Submit) -> Iterable[BaseModel]:
    """The vector of item i is (i, i + 0.1)."""
    assert isinstance(submit.task, Embedding)
    count = len(submit.task.texts) or len(submit.task.ids)
    numbers = [number for item in range(count) for number in (item, item + 0.1)]
    yield Chunks(
        deltas=[
            Delta(
                request_id=submit.request_id,
                attempt=submit.attempt,
                index=0,
                start=Start(prompt_tokens=TOKENS),
                finish=Finish(reason=FinishReason.STOP, completion_tokens=0),
                vectors=Vectors(dimensions=2, data=struct.pack(f"<{len(numbers)}f", *numbers)),
            )
        ]
    )


def ask(stack: Stack, **fields: Any) -> httpx.Response:
    stack.broker.script = vectors
    return stack.client.post("/v1/embeddings", json={"model": "tiny", **fields})


def task(stack: Stack) -> Embedding:
    asked = stack.broker.wait_for(Submit).task
    assert isinstance(asked, Embedding)
    return asked


def test_vectors_are_numbers_in_the_order_of_the_input(stack: Stack) -> None:
    body = ask(stack, input=["a", "b", "c"]).json()
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    assert body["data"][2]["embedding"] == pytest.approx([2, 2.1])
    assert {item["object"] for item in body["data"]} == {"embedding"}
    assert (body["object"], body["model"]) == ("list", "tiny")
    assert body["usage"] == {"prompt_tokens": TOKENS, "total_tokens": TOKENS}


def test_base64_holds_the_same_numbers_as_little_endian_float32(stack: Stack) -> None:
    body = ask(stack, input=["a", "b"], encoding_format="base64").json()
    raw = base64.b64decode(body["data"][1]["embedding"])
    assert struct.unpack("<2f", raw) == pytest.approx((1, 1.1))


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}])
def test_openais_client_reads_both_forms(stack: Stack, options: Any) -> None:
    stack.broker.script = vectors
    with OpenAI(base_url=f"{stack.url}/v1", api_key="unused", max_retries=0) as client:
        answer = client.embeddings.create(model="tiny", input=["a", "b"], **options)
    assert [item.embedding for item in answer.data] == [pytest.approx([0, 0.1]), pytest.approx([1, 1.1])]
    assert answer.usage.total_tokens == TOKENS


@pytest.mark.parametrize(
    ("given", "texts", "ids", "single"),
    [
        ("a", ["a"], [], True),
        (["a"], ["a"], [], False),
        ([5, 6], [], [[5, 6]], True),
        ([[5, 6], [7]], [], [[5, 6], [7]], False),
        ([5.0], [], [[5]], True),
    ],
)
def test_texts_and_token_ids_reach_the_worker_as_they_are(
    stack: Stack, given: Any, texts: list[str], ids: list[list[int]], single: bool
) -> None:
    assert ask(stack, input=given, dimensions=2, prompt_name="query").status_code == 200
    asked = task(stack)
    assert (asked.texts, asked.ids, asked.single) == (texts, ids, single)
    assert (asked.dimensions, asked.prompt) == (2, "query")


def test_2048_items_are_one_request_to_the_worker(stack: Stack) -> None:
    assert len(ask(stack, input=["a"] * 2048).json()["data"]) == 2048
    assert len([m for m in stack.broker.received if isinstance(m, Submit)]) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": {}}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": [1, 1.5]}, "input[1]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": [[1], "a"]}, "input[1]"),
        ({"input": [[1], [True]]}, "input[1][0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "2"}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "prompt_name": 5}, "prompt_name"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_input_is_a_400_that_names_its_field_and_reaches_no_worker(
    stack: Stack, fields: dict[str, Any], param: str
) -> None:
    answer = ask(stack, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not [m for m in stack.broker.received if isinstance(m, Submit)]


def test_a_model_that_is_not_served_is_a_404(stack: Stack) -> None:
    assert ask(stack, model="other", input="a").status_code == 404


NOT_NEUTRAL = {
    "normalize": False,
    "add_special_tokens": False,
    "truncate_prompt_tokens": 10,
    "embd_normalize": -1,
    "input_type": "query",
    "task": "retrieval",
    "instruction": "Find it",
    "embedding_types": ["int8"],
    "output_dimension": 64,
    "late_chunking": True,
    "truncation_direction": "left",
    "extra_body": {"a": 1},
}


@pytest.mark.parametrize("name", NOT_NEUTRAL)
def test_what_would_give_other_vectors_is_refused_by_name(stack: Stack, name: str) -> None:
    response = ask(stack, input="a", **{name: NOT_NEUTRAL[name]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == name
    assert ask(stack, input="a", **{name: None}).status_code == 200


def test_what_changes_no_vector_is_ignored(stack: Stack) -> None:
    neutral = {"normalize": True, "truncate": True, "embd_normalize": 2, "embedding_types": ["float"]}
    hints = {"user": "u", "keep_alive": "5m", "options": {}, "truncate_prompt_tokens": -1, "priority": 1}
    assert ask(stack, input="a", **neutral, **hints).json() == ask(stack, input="a").json()
