"""POST /admin/models/{id}/load, /unload, /reload and /pull: what is asked of the broker, and what a client reads."""

from collections.abc import Iterable, Iterator

import pytest
from pydantic import BaseModel

from api.generation.broker_client import in_words
from shared.errors import ModelConflict
from shared.model_table import ModelTable
from shared.protocol import ModelStatus, Order, OrderReply, Submit, Waiting
from tests.api.conftest import Stack, run_stack


@pytest.fixture(scope="module")
def named() -> Iterator[Stack]:
    with run_stack(models={"tiny": ModelTable(aliases=("gpt-4o",))}) as stack:
        yield stack


@pytest.fixture
def stack(named: Stack) -> Stack:
    named.broker.reset()
    return named


def ordered(stack: Stack) -> Order:
    return stack.broker.wait_for(Order)


@pytest.mark.parametrize("action", ["load", "unload", "reload", "pull"])
def test_an_order_that_waits_is_answered_when_it_is_done(stack: Stack, action: str) -> None:
    answer = stack.client.post(f"/admin/models/tiny/{action}", json={"wait": True})
    assert (answer.status_code, answer.json()) == (
        200,
        {"model": "tiny", "action": action, "done": True, "status": "hot"},
    )
    assert (ordered(stack).action, ordered(stack).model) == (action, "tiny")


def test_a_delete_of_pull_cancels_the_download(stack: Stack) -> None:
    answer = stack.client.delete("/admin/models/org/name/pull")
    assert (answer.status_code, answer.json()["action"]) == (202, "cancel")
    assert (ordered(stack).action, ordered(stack).model) == ("cancel", "org/name")


@pytest.mark.parametrize("path", ["tiny/load", "tiny", "pull"])
def test_nothing_but_a_pull_can_be_deleted(stack: Stack, path: str) -> None:
    answer = stack.client.delete(f"/admin/models/{path}")
    assert answer.status_code == 404
    assert not [one for one in stack.broker.received if isinstance(one, Order)]


def test_models_show_how_far_their_download_is(stack: Stack) -> None:
    downloading = ModelStatus(
        id="tiny", state="downloading", phase="download", done=3, total=9, rate=2.0, eta=3.0, absent=True
    )
    stack.broker.models = [downloading, ModelStatus(id="org/name", state="loadable")]
    tiny = stack.client.get("/v1/models/tiny").json()
    assert (tiny["status"], tiny["absent"], tiny["loading"]) == ("downloading", True, None)
    assert tiny["download"] == {"bytes": 3, "of": 9, "rate": 2.0, "eta": 3.0}
    other = stack.client.get("/v1/models/org/name").json()
    assert (other["absent"], other["download"]) == (False, None)


def test_the_comments_of_a_stream_say_how_far_the_download_is() -> None:
    waiting = Waiting(
        model="a", state="downloading", percent=42, phase="12.3 MB/s, 31 s left", total=2, positions={}
    )
    assert in_words(waiting, 1) == "queued, 1 of 2 for 'a', downloading, 42 % (12.3 MB/s, 31 s left)"


def test_an_order_that_does_not_wait_is_answered_with_202_and_needs_no_body(stack: Stack) -> None:
    answer = stack.client.post("/admin/models/tiny/load")
    assert (answer.status_code, answer.json()["status"], answer.json()["done"]) == (202, "queued", False)


def test_ids_with_slashes_and_aliases_name_their_model(stack: Stack) -> None:
    assert stack.client.post("/admin/models/org/name/load").json()["model"] == "org/name"
    assert stack.client.post("/admin/models/gpt-4o/load").json()["model"] == "tiny"


def test_an_unknown_model_is_404_and_does_not_reach_the_broker(stack: Stack) -> None:
    answer = stack.client.post("/admin/models/tini/load")
    assert answer.status_code == 404
    assert "Did you mean 'tiny'?" in answer.json()["error"]["message"]
    assert not [one for one in stack.broker.received if isinstance(one, Order)]


@pytest.mark.parametrize("path", ["tiny/start", "load", "tiny"])
def test_an_unknown_action_is_404_and_names_those_that_there_are(stack: Stack, path: str) -> None:
    answer = stack.client.post(f"/admin/models/{path}")
    assert answer.status_code == 404
    assert "load, unload, reload" in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [{"wait": "soon"}, {"waits": True}, []])
def test_a_wrong_body_is_refused_and_does_not_reach_the_broker(stack: Stack, body: object) -> None:
    answer = stack.client.post("/admin/models/tiny/load", json=body)
    assert answer.status_code == 400
    assert not [one for one in stack.broker.received if isinstance(one, Order)]


def test_the_brokers_refusal_is_the_answer(stack: Stack) -> None:
    def refuse(order: Order) -> OrderReply:
        return OrderReply(query=order.query, failure=ModelConflict("'tiny' is pinned").to_failure())

    stack.broker.reply = refuse
    answer = stack.client.post("/admin/models/tiny/unload", json={"force": False})
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "model_conflict"


def test_models_show_how_far_their_load_is_and_what_the_operator_said_of_them(stack: Stack) -> None:
    stack.broker.models = [
        ModelStatus(id="tiny", state="loading", phase="weights", done=3, total=9, pinned=True),
        ModelStatus(id="org/name", state="queued", ttl=60.0),
    ]
    tiny = stack.client.get("/v1/models/tiny").json()
    assert (tiny["status"], tiny["pinned"]) == ("loading", True)
    assert tiny["loading"] == {"phase": "weights", "bytes": 3, "of": 9}
    other = stack.client.get("/v1/models/org/name").json()
    assert (other["status"], other["ttl"], other["loading"]) == ("queued", 60.0, None)


def test_a_reload_of_settings_that_cannot_be_used_is_answered_with_what_is_wrong(stack: Stack) -> None:
    answer = stack.client.post("/admin/reload")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["message"]) == ("invalid_settings", "line 3: no such key")


def test_a_stream_that_waits_says_in_comments_what_for(stack: Stack) -> None:
    def wait(submit: Submit) -> Iterable[BaseModel]:
        yield Waiting(
            model="tiny",
            state="loading",
            phase="weights",
            percent=40,
            total=7,
            positions={submit.request_id: 3},
        )

    stack.broker.script = wait
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with stack.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        comment = next(line for line in answer.iter_lines() if line.startswith(": queued"))
    assert comment == ": queued, 3 of 7 for 'tiny', loading (weights 40 %)"
