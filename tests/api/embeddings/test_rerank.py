"""POST /v1/rerank in the shape of Cohere and of Jina."""

import struct
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from shared.protocol import Chunks, Delta, Finish, FinishReason, Ranking, Scores, Start, Submit
from tests.api.conftest import Stack


def by_length(submit: Submit) -> Iterable[BaseModel]:
    """The longer a document, the better."""
    assert isinstance(submit.task, Ranking)
    scores = [len(document) / 8 for document in submit.task.documents]
    yield Chunks(
        deltas=[
            Delta(
                request_id=submit.request_id,
                attempt=submit.attempt,
                index=0,
                start=Start(prompt_tokens=9),
                finish=Finish(reason=FinishReason.STOP, completion_tokens=0),
                scores=Scores(data=struct.pack(f"<{len(scores)}f", *scores)),
            )
        ]
    )


def ask(stack: Stack, path: str = "/v1/rerank", **fields: Any) -> httpx.Response:
    stack.broker.script = by_length
    body = {"model": "tiny", "query": "q", "documents": ["aa", "a", "aaaa", "bb"], **fields}
    return stack.client.post(path, json=body)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_are_sorted_by_score_and_equal_ones_stay_in_order(stack: Stack, path: str) -> None:
    body = ask(stack, path).json()
    assert body["results"] == [
        {"index": 2, "relevance_score": 0.5},
        {"index": 0, "relevance_score": 0.25},
        {"index": 3, "relevance_score": 0.25},
        {"index": 1, "relevance_score": 0.125},
    ]
    assert (body["model"], body["usage"]["total_tokens"], body["meta"]["tokens"]["input_tokens"]) == (
        "tiny",
        9,
        9,
    )


def test_objects_are_documents_too_and_come_back_when_asked_for(stack: Stack) -> None:
    body = ask(stack, documents=["a", {"text": "bbb", "id": 7}], top_n=1, return_documents=True).json()
    assert body["results"] == [{"index": 1, "relevance_score": 0.375, "document": {"text": "bbb"}}]
    asked = stack.broker.wait_for(Submit).task
    assert isinstance(asked, Ranking)
    assert (asked.query, asked.documents) == ("q", ["a", "bbb"])


def test_more_than_there_are_is_all_of_them(stack: Stack) -> None:
    assert len(ask(stack, top_n=100).json()["results"]) == 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"query": ["q"]}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", 5]}, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "documents[0].text"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"top_n": 0}, "top_n"),
        ({"return_documents": "yes"}, "return_documents"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_bad_input_is_a_400_that_names_its_field(stack: Stack, fields: dict[str, Any], param: str) -> None:
    answer = ask(stack, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not [m for m in stack.broker.received if isinstance(m, Submit)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("raw_scores", True), ("rank_fields", ["title"]), ("instruct", "Find it"), ("max_tokens_per_doc", 9)],
)
def test_what_would_give_other_scores_is_refused_by_name(stack: Stack, name: str, value: Any) -> None:
    response = ask(stack, **{name: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)
    nothing: dict[str, Any] = {name: None}
    assert ask(stack, **nothing).status_code == 200


def test_the_number_of_the_best_has_a_second_name(stack: Stack) -> None:
    assert ask(stack, top_k=1).json()["results"] == ask(stack, top_n=1).json()["results"]
