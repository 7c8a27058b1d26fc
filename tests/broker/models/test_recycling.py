"""Workers that grow at rest, in plays of the mind's events."""

from typing import Any

from broker.core import Broker
from broker.events import Action, Spawn, Tick, WorkerExited
from broker.memory.decisions import GB
from broker.models.recycling import AT_REST, PAUSE
from broker.rules import MemoryRules
from tests.broker.memory.test_memory import beat, drains
from tests.broker.plays import ask, forward, make_broker, notes, play, ready, run, status


def loaded(budget: int = 20, **rules: Any) -> Broker:
    """Model ``a`` is loaded, idle, and takes 3 GB."""
    broker = make_broker(rules=MemoryRules(budget * GB, lends=True, recycle=GB, **rules))
    play(broker, ask("r1"), ready("a#1"), beat("a#1", footprint=3 * GB), Tick(), forward("a#1", "r1"))
    return broker


def at_rest(
    broker: Broker, seconds: float, begin: float = 1.0, worker: str = "a#1", **use: int
) -> list[Action]:
    """What is done while the worker beats every second with this use."""
    done: list[Action] = []
    for second in range(int(seconds)):
        now = begin + second
        done += play(broker, beat(worker, **use), now=now)
        done += broker.handle(Tick(), now)
    return done


def test_a_worker_that_has_grown_at_rest_is_replaced_by_a_new_one_first() -> None:
    broker = loaded()
    done = at_rest(broker, AT_REST + 2, footprint=5 * GB)
    assert [one for one in done if isinstance(one, Spawn)] == [Spawn("a#2", "a")]
    assert not drains(done)
    assert drains(play(broker, ready("a#2"), now=13.0)) == ["a#1"]
    line = "recycle a#1: at rest it takes 5.0 GB beside keys and values, and 3.0 GB when it was loaded"
    assert line in notes(done)
    assert line in [one.line for one in status(broker, 13.0).memory.decisions]


def test_where_there_is_no_memory_for_both_the_model_is_loaded_again_when_the_old_one_is_gone() -> None:
    broker = loaded(budget=6)
    done = at_rest(broker, AT_REST + 2, footprint=5 * GB)
    assert drains(done) == ["a#1"]
    assert Spawn("a#2", "a") in play(broker, WorkerExited("a#1", 0), now=14.0)


def test_growth_within_the_bound_or_of_keys_and_values_replaces_nothing() -> None:
    done = at_rest(loaded(), AT_REST * 3, footprint=int(3.9 * GB))
    done += at_rest(loaded(), AT_REST * 3, footprint=9 * GB, kv=6 * GB)
    assert not [one for one in done if isinstance(one, Spawn)]


def test_a_worker_that_answers_is_not_replaced_however_large_it_is() -> None:
    broker = loaded()
    assert run("a#1", "r2") in play(broker, ask("r2"), now=1.0)
    done = at_rest(broker, AT_REST * 2, footprint=9 * GB)
    assert not [one for one in done if isinstance(one, Spawn)]
    assert not drains(done)


def test_without_a_bound_no_worker_is_replaced() -> None:
    broker = make_broker(rules=MemoryRules(20 * GB, lends=True))
    play(broker, ask("r1"), ready("a#1"), beat("a#1", footprint=3 * GB), Tick(), forward("a#1", "r1"))
    assert not [one for one in at_rest(broker, AT_REST * 2, footprint=9 * GB) if isinstance(one, Spawn)]


def test_a_model_whose_new_workers_grow_too_gets_one_in_ten_minutes() -> None:
    broker = loaded()
    at_rest(broker, AT_REST + 2, footprint=5 * GB)
    play(broker, ready("a#2"), WorkerExited("a#1", 0), beat("a#2", footprint=3 * GB), Tick(), now=14.0)
    done = at_rest(broker, PAUSE - 10, 15.0, "a#2", footprint=5 * GB)
    assert not [one for one in done if isinstance(one, Spawn)]
    later = at_rest(broker, 20, 5.0 + PAUSE, "a#2", footprint=5 * GB)
    assert [one for one in later if isinstance(one, Spawn)] == [Spawn("a#3", "a")]


def test_what_a_worker_grew_by_is_not_learned_as_the_need_of_its_model() -> None:
    broker = loaded()
    at_rest(broker, AT_REST + 3, footprint=5 * GB)
    assert broker.learned["a"]["base"] == 3 * GB
