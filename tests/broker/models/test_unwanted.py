"""Idle workers leave after their model's ttl, and loads that nobody waits for are given up, by plays of the broker."""

from typing import Any

import pytest

from broker.core import Broker
from broker.events import Action, ApiSaid, SettingsRead, Spawn, TellWorker, Terminate, Tick, WorkerExited
from broker.memory.decisions import GB
from broker.rules import Changes, MemoryRules
from shared.protocol import Drain, Order, Ping
from tests.broker.plays import (
    API,
    ask,
    beat,
    cancel,
    forward,
    loading,
    make_broker,
    play,
    ready,
    refusals,
    run,
    status,
)


def broker_with(**rules: Any) -> Broker:
    given = {"budget": 8 * GB, "lends": True, "said": {"a": 3 * GB, "b": 3 * GB, "c": 3 * GB}, **rules}
    return make_broker(models=("a", "b", "c"), rules=MemoryRules(**given))


def drained(actions: list[Action]) -> list[str]:
    return [a.worker for a in actions if isinstance(a, TellWorker) and isinstance(a.message, Drain)]


def idle(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"), forward("a#1", "r1"), Tick())


def at(broker: Broker, now: float) -> list[Action]:
    return play(broker, ApiSaid(API, Ping()), beat("a#1"), Tick(), now=now)


def test_a_model_is_unloaded_when_its_ttl_has_passed_since_its_last_request() -> None:
    broker = broker_with(ttl={"a": 4.0})
    idle(broker)
    assert drained(at(broker, 3.9)) == []
    assert run("a#1", "r2") in play(broker, ask("r2"), now=3.9)
    play(broker, forward("a#1", "r2"), now=4.0)
    assert drained(at(broker, 7.8)) == []
    assert drained(at(broker, 8.0)) == ["a#1"]


def test_a_ttl_of_zero_is_for_ever() -> None:
    broker = broker_with(ttl={"a": 0.0})
    idle(broker)
    for now in range(1, 100):
        assert drained(at(broker, now)) == []


def test_a_busy_model_is_not_unloaded_however_long_its_answer_takes() -> None:
    broker = broker_with(ttl={"a": 4.0})
    play(broker, ask("r1"), ready("a#1"))
    for now in range(1, 50):
        assert drained(at(broker, now)) == []
    play(broker, forward("a#1", "r1"), now=50.0)
    assert drained(at(broker, 53.0)) == []
    assert drained(at(broker, 54.5)) == ["a#1"]


@pytest.mark.parametrize("first", ["tick", "request"])
def test_a_request_in_the_moment_of_the_ttl_is_served_by_this_worker_or_the_next(first: str) -> None:
    broker = broker_with(ttl={"a": 4.0})
    idle(broker)
    if first == "request":
        assert run("a#1", "r2") in play(broker, ask("r2"), now=4.5)
        assert drained(at(broker, 4.5)) == []
        return
    assert drained(at(broker, 4.5)) == ["a#1"]
    assert refusals(play(broker, ask("r2"), now=4.5)) == []
    assert Spawn("a#2", "a") in play(broker, WorkerExited("a#1", 0), now=4.6)
    assert run("a#2", "r2") in play(broker, ready("a#2"), now=5.0)


def test_a_load_goes_on_for_ten_seconds_after_the_last_request_for_it_has_left() -> None:
    broker = broker_with()
    play(broker, ask("r1"), loading("a#1"))
    play(broker, Tick(), now=1.0)
    play(broker, cancel("r1"), Tick(), now=1.5)
    assert play(broker, Tick(), now=10.9) == []
    assert play(broker, Tick(), now=11.1) == [Terminate("a#1")]
    assert play(broker, WorkerExited("a#1", -15), now=12.0) == []
    assert status(broker, 12.0).models[0].state == "loadable"


def test_a_load_that_somebody_waits_for_again_goes_on() -> None:
    broker = broker_with()
    play(broker, ask("r1"), loading("a#1"), cancel("r1"), Tick(), now=1.0)
    play(broker, ask("r2"), Tick(), now=9.0)
    assert play(broker, ApiSaid(API, Ping()), Tick(), now=18.0) == []


def test_a_model_that_was_reloaded_beside_its_old_worker_is_unloaded_after_its_ttl() -> None:
    broker = broker_with(ttl={"a": 4.0})
    idle(broker)
    play(broker, ApiSaid(API, Order(query="q", action="reload", model="a")), ready("a#2"), now=1.0)
    play(broker, WorkerExited("a#1", 0), beat("a#2"), Tick(), now=2.0)
    assert drained(play(broker, ApiSaid(API, Ping()), beat("a#2"), Tick(), now=6.5)) == ["a#2"]


def test_a_loaded_model_that_is_to_be_preloaded_from_now_on_is_unloaded_after_its_ttl() -> None:
    broker = broker_with(ttl={"a": 4.0})
    idle(broker)
    rules = MemoryRules(budget=8 * GB, lends=True, ttl={"a": 4.0}, preload=("a",))
    play(broker, SettingsRead(Changes(("a", "b", "c"), rules)))
    assert drained(at(broker, 4.5)) == ["a#1"]


def test_a_preload_may_take_as_long_as_it_takes() -> None:
    broker = broker_with(preload=("a",))
    play(broker, Tick(), loading("a#1"))
    for now in range(1, 30):
        assert play(broker, loading("a#1", done=now), Tick(), now=now) == []
    assert status(broker, 30.0).models[0].state == "loading"


def test_models_are_preloaded_in_order_as_far_as_there_is_memory() -> None:
    broker = broker_with(preload=("a", "b", "c"))
    assert play(broker, Tick()) == [Spawn("a#1", "a"), Spawn("b#2", "b")]
    play(broker, ready("a#1"), ready("b#2"))
    assert play(broker, Tick(), now=0.5) == []
    assert [model.state for model in status(broker, 1.0).models] == ["hot", "hot", "loadable"]


def test_a_preload_that_failed_is_not_tried_again_without_a_request() -> None:
    broker = broker_with(preload=("a",))
    play(broker, Tick(), WorkerExited("a#1", 1))
    assert play(broker, Tick(), now=0.5) == []
    assert Spawn("a#2", "a") in play(broker, ask("r1"), now=30.0)


def test_a_model_that_waits_for_memory_is_queued() -> None:
    broker = broker_with(budget=4 * GB)
    play(broker, ask("r1"), ready("a#1"), ask("r2", "b"))
    assert [model.state for model in status(broker, 1.0).models] == ["hot", "queued", "loadable"]
