"""An operator's order that kept prompts be forgotten, as plays of the broker's events."""

from broker.core import Broker
from broker.events import Action, ApiSaid, PeerGone, Tick, WorkerExited, WorkerSaid
from broker.startup import Survivor
from shared.protocol import ForgetPrompts, Order, PromptsForgotten
from tests.broker.plays import API, ask, loading, make_broker, play, ready, said

MODELS = ("a", "b")


def order(query: str = "q", namespace: str | None = "key") -> ApiSaid:
    return ApiSaid(API, ForgetPrompts(query=query, namespace=namespace))


def forgot(worker: str, memory: int = 3, disk: int = 4, query: str = "q", reason: str = "") -> WorkerSaid:
    return WorkerSaid(worker, PromptsForgotten(query=query, memory=memory, disk=disk, reason=reason))


def replies(actions: list[Action]) -> list[PromptsForgotten]:
    return [message for message in said(actions) if isinstance(message, PromptsForgotten)]


def told(actions: list[Action]) -> list[str]:
    return [
        action.worker
        for action in actions
        if hasattr(action, "worker") and isinstance(getattr(action, "message", None), ForgetPrompts)
    ]


def with_workers() -> Broker:
    """Of the models a and b, both ready."""
    broker = make_broker(models=MODELS)
    play(broker, ask("1", "a"), loading("a#1"), ready("a#1"), ask("2", "b"), loading("b#2"), ready("b#2"))
    return broker


def test_without_workers_there_is_nothing_to_forget() -> None:
    assert replies(play(make_broker(models=MODELS), order())) == [PromptsForgotten(query="q")]


def test_every_worker_is_told_once_and_the_reply_comes_when_all_have_confirmed() -> None:
    broker = with_workers()
    actions = play(broker, order())
    assert (told(actions), replies(actions)) == (["a#1", "b#2"], [])
    actions = play(broker, Tick())
    assert (told(actions), replies(actions)) == ([], [])
    assert replies(play(broker, forgot("a#1"))) == []
    whole = PromptsForgotten(query="q", memory=6, disk=8, models=["a", "b"])
    assert replies(play(broker, forgot("b#2"))) == [whole]
    assert replies(play(broker, forgot("b#2"))) == []


def test_what_could_not_be_deleted_is_told_once() -> None:
    broker = with_workers()
    play(broker, order(), forgot("a#1", reason="read-only"))
    [reply] = replies(play(broker, forgot("b#2", reason="read-only")))
    assert reply.reason == "read-only"


def test_a_worker_that_dies_in_between_has_nothing_in_memory_and_is_not_awaited() -> None:
    broker = with_workers()
    play(broker, order(), forgot("a#1"))
    [reply] = replies(play(broker, WorkerExited("b#2", -9)))
    assert reply.models == ["a"]


def test_a_worker_that_loads_has_read_nothing_and_is_not_awaited() -> None:
    broker = make_broker(models=MODELS)
    play(broker, ask("1", "a"), loading("a#1"))
    actions = play(broker, order())
    assert (told(actions), len(replies(actions))) == ([], 1)
    assert told(play(broker, ready("a#1"))) == []


def test_a_worker_that_finishes_what_it_runs_is_told_as_well() -> None:
    broker = with_workers()
    play(broker, ApiSaid(API, Order(query="o", action="unload", model="a")))
    assert told(play(broker, order())) == ["a#1", "b#2"]


def test_workers_of_an_earlier_broker_are_awaited_and_told_when_they_are_back() -> None:
    old = Survivor("a#old", "a", pid=7, spawned=True, ready=True)
    static = Survivor("static", "b", pid=8, spawned=False, ready=True)
    broker = make_broker(models=MODELS, survivors=(old, static))
    actions = play(broker, order())
    assert (told(actions), replies(actions)) == ([], [])
    assert told(play(broker, ready("a#old"))) == ["a#old"]
    assert replies(play(broker, forgot("a#old"))) == []
    assert told(play(broker, ready("static", "b"))) == ["static"]
    [reply] = replies(play(broker, forgot("static")))
    assert reply.models == ["a", "b"]


def test_a_word_of_a_worker_that_was_not_asked_or_of_another_order_counts_for_nothing() -> None:
    broker = with_workers()
    play(broker, order(), forgot("a#1"))
    assert replies(play(broker, forgot("b#2", query="another"))) == []
    assert replies(play(broker, forgot("stranger"))) == []
    assert len(replies(play(broker, forgot("b#2")))) == 1


def test_two_orders_at_once_are_told_and_answered_each() -> None:
    broker = with_workers()
    play(broker, order(), order("r", None))
    play(broker, forgot("a#1"), forgot("a#1", query="r"), forgot("b#2", query="r"))
    [reply] = replies(play(broker, forgot("b#2")))
    assert reply.query == "q"


def test_an_api_that_is_gone_gets_no_reply() -> None:
    broker = with_workers()
    play(broker, order(), PeerGone(API), forgot("a#1"))
    assert replies(play(broker, forgot("b#2"))) == []
