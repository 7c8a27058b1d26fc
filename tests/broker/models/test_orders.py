"""Orders of operators: load, unload and reload, and what is replied to them, as plays of the broker's events."""

from typing import Any

import pytest

from broker.core import Broker
from broker.events import (
    Action,
    ApiSaid,
    Exit,
    PeerGone,
    Spawn,
    StopAll,
    TellApi,
    TellWorker,
    Terminate,
    Tick,
)
from broker.events import WorkerExited as Exited
from broker.memory.decisions import GB
from broker.rules import MemoryRules
from shared.protocol import Drain, Order, OrderReply, Ping
from tests.broker.plays import (
    API,
    ask,
    beat,
    forward,
    load_failed,
    loading,
    make_broker,
    play,
    ready,
    run,
    said,
    status,
)

NEEDS = {"a": 5 * GB, "b": 5 * GB, "c": 30 * GB}
MODELS = ("a", "b", "c")


def broker_with(budget: int = 8 * GB, **rules: Any) -> Broker:
    given = MemoryRules(budget, lends=True, min_stay=0.0, said=NEEDS, **rules)
    return make_broker(models=MODELS, rules=given)


def order(action: Any, model: str = "a", *, wait: bool = True, force: bool = False) -> ApiSaid:
    return ApiSaid(API, Order(query="q", action=action, model=model, wait=wait, force=force))


def replies(actions: list[Action]) -> list[OrderReply]:
    return [message for message in said(actions) if isinstance(message, OrderReply)]


def code(actions: list[Action]) -> str:
    [reply] = replies(actions)
    assert reply.failure
    return reply.failure.code


def drained(actions: list[Action]) -> list[str]:
    return [a.worker for a in actions if isinstance(a, TellWorker) and isinstance(a.message, Drain)]


def test_a_load_that_waits_is_answered_when_the_model_is_ready() -> None:
    broker = broker_with()
    actions = play(broker, order("load"))
    assert Spawn("a#1", "a") in actions and replies(actions) == []
    assert replies(play(broker, ready("a#1"))) == [OrderReply(query="q", state="hot", done=True)]


def test_a_load_that_does_not_wait_is_answered_at_once_with_how_far_it_is() -> None:
    broker = broker_with()
    assert replies(play(broker, order("load", wait=False))) == [OrderReply(query="q", state="queued")]
    assert status(broker).models[0].state == "loading"


def test_a_load_of_a_model_that_is_hot_is_done_and_starts_nothing() -> None:
    broker = broker_with()
    play(broker, ask("r1"), ready("a#1"))
    [answer] = play(broker, order("load"))
    assert answer == TellApi(API, OrderReply(query="q", state="hot", done=True))


def test_a_load_that_fails_is_answered_with_the_reason_and_not_tried_again() -> None:
    broker = broker_with()
    play(broker, order("load"))
    actions = play(broker, load_failed("a#1", permanent=True))
    assert code(actions) == "model_unavailable"
    assert not any(isinstance(action, Spawn) for action in play(broker, Exited("a#1", 78), Tick(), now=60.0))


def test_a_load_is_tried_at_once_whatever_has_failed_before() -> None:
    broker = broker_with()
    play(broker, ask("r1"), load_failed("a#1", permanent=True), Exited("a#1", 78))
    assert Spawn("a#2", "a") in play(broker, order("load"), now=0.1)


def test_a_load_of_what_can_never_fit_is_answered_with_the_figures() -> None:
    actions = play(broker_with(), order("load", "c"))
    assert code(actions) == "model_unavailable"
    assert "it needs 30.00 GB" in str(replies(actions)[0].failure)


def test_an_order_for_an_unknown_model_is_refused() -> None:
    assert code(play(broker_with(), order("unload", "d"))) == "model_not_found"


def test_an_ordered_load_makes_room_like_a_request() -> None:
    broker = broker_with()
    play(broker, ask("r1"), ready("a#1"), forward("a#1", "r1"), Tick(), now=1.0)
    assert drained(play(broker, order("load", "b"), now=20.0)) == ["a#1"]
    assert Spawn("b#2", "b") in play(broker, Exited("a#1", 0), now=21.0)


def test_an_unload_lets_running_answers_finish_and_is_answered_when_the_process_is_gone() -> None:
    broker = broker_with()
    play(broker, ask("r1"), ready("a#1"))
    actions = play(broker, order("unload"))
    assert drained(actions) == ["a#1"] and replies(actions) == []
    assert replies(play(broker, forward("a#1", "r1"))) == []
    assert replies(play(broker, Exited("a#1", 0))) == [OrderReply(query="q", state="loadable", done=True)]


def test_an_unload_of_a_model_that_is_not_loaded_is_done() -> None:
    assert replies(play(broker_with(), order("unload"))) == [
        OrderReply(query="q", state="loadable", done=True)
    ]


def test_an_unload_ends_a_load_and_the_order_to_load_says_so() -> None:
    broker = broker_with()
    play(broker, order("load"), loading("a#1"))
    actions = play(broker, order("unload"))
    assert Terminate("a#1") in actions
    assert [reply.failure.code for reply in replies(actions) if reply.failure] == ["model_conflict"]


def test_a_pinned_model_is_unloaded_only_when_forced() -> None:
    broker = broker_with(pinned=frozenset("a"))
    play(broker, ask("r1"), ready("a#1"), forward("a#1", "r1"))
    assert code(play(broker, order("unload"))) == "model_conflict"
    assert drained(play(broker, order("unload", force=True))) == ["a#1"]


@pytest.mark.parametrize("action", ["unload", "reload"])
def test_a_static_worker_is_left_to_whoever_started_it(action: str) -> None:
    broker = broker_with()
    play(broker, ready("static", "a"))
    assert code(play(broker, order(action))) == "model_conflict"


def test_a_reload_without_memory_for_two_ends_the_old_worker_first_and_requests_wait() -> None:
    broker = broker_with()
    play(broker, ask("r1"), ready("a#1"), forward("a#1", "r1"))
    assert drained(play(broker, order("reload"))) == ["a#1"]
    assert play(broker, ask("r2")) == []
    assert Spawn("a#2", "a") in play(broker, Exited("a#1", 0))
    actions = play(broker, ready("a#2"))
    assert run("a#2", "r2") in actions
    assert replies(actions) == [OrderReply(query="q", state="hot", done=True)]


def test_a_reload_with_memory_for_two_starts_the_new_worker_first() -> None:
    broker = broker_with(budget=12 * GB)
    play(broker, ask("r1"), ready("a#1"))
    actions = play(broker, order("reload"))
    assert Spawn("a#2", "a") in actions and drained(actions) == []
    assert drained(play(broker, ready("a#2"))) == ["a#1"]
    assert run("a#2", "r2") in play(broker, ask("r2"))
    assert replies(play(broker, forward("a#1", "r1"), Exited("a#1", 0)))[0].done


def test_a_reload_is_done_also_when_the_new_worker_left_by_its_ttl_before_the_old_one_had_finished() -> None:
    broker = broker_with(budget=12 * GB, ttl={"a": 4.0})
    play(broker, ask("r1"), ready("a#1"), order("reload"))
    play(broker, ready("a#2"), now=1.0)
    actions = play(broker, ApiSaid(API, Ping()), beat("a#1"), beat("a#2"), Tick(), now=6.0)
    assert drained(actions) == ["a#2"]
    assert replies(play(broker, Exited("a#2", 0), Tick(), now=6.1)) == []
    [reply] = replies(play(broker, forward("a#1", "r1"), Exited("a#1", 0), now=6.2))
    assert reply.done


def test_when_the_new_worker_of_a_reload_cannot_be_loaded_the_old_one_goes_on() -> None:
    broker = broker_with(budget=12 * GB)
    play(broker, ask("r1"), ready("a#1"))
    play(broker, order("reload"))
    actions = play(broker, load_failed("a#2", permanent=True))
    assert "the old one goes on: no such file" in str(replies(actions)[0].failure)
    assert run("a#1", "r2") in play(broker, ask("r2"))


def test_an_api_that_is_lost_gets_no_reply() -> None:
    broker = broker_with()
    play(broker, order("load"), PeerGone(API))
    assert replies(play(broker, ready("a#1"))) == []


def test_a_broker_that_stops_takes_no_orders() -> None:
    broker = broker_with()
    play(broker, ask("r1"), ready("a#1"), StopAll())
    assert code(play(broker, order("load", "b"))) == "draining"


def test_a_broker_that_stops_loads_nothing_more_and_answers_the_orders_that_wait_for_a_load() -> None:
    broker = broker_with()
    play(broker, ask("r1"), ready("a#1"), order("load", "b"))
    actions = play(broker, StopAll(), now=1.0)
    assert drained(actions) == ["a#1"]
    assert code(actions) == "draining"
    assert play(broker, forward("a#1", "r1"), Exited("a#1", 0), now=2.0) == [Exit()]


def test_a_broker_that_stops_preloads_nothing_into_the_memory_that_comes_back() -> None:
    broker = broker_with(preload=("a", "b"))
    play(broker, Tick(), ready("a#1"), StopAll())
    assert play(broker, Exited("a#1", 0), now=2.0) == [Exit()]


def test_an_unload_is_answered_by_a_broker_that_stops() -> None:
    broker = broker_with()
    play(broker, ask("r1"), ready("a#1"), order("unload"), StopAll())
    assert replies(play(broker, forward("a#1", "r1"), Exited("a#1", 0)))[0].done
