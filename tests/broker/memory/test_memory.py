"""The mind with a budget: what starts, who makes room, what is told, by plays of its events."""

from typing import Any

from broker.core import Broker
from broker.events import Action, ApiSaid, Spawn, TellWorker, Tick, WorkerExited, WorkerSaid
from broker.memory.decisions import GB
from broker.rules import MemoryRules
from shared.protocol import Capabilities, Drain, Heartbeat, Lease, MemoryUse, Ping, Register
from tests.broker.plays import (
    API,
    TOKEN,
    ask,
    cancel,
    forward,
    make_broker,
    play,
    ready,
    reason,
    refusals,
    run,
    status,
)

NEEDS = {"a": 5 * GB, "b": 5 * GB, "c": 11 * GB}


def two_models_and_room_for_one(**rules: Any) -> Broker:
    given = MemoryRules(8 * GB, lends=True, min_stay=4.0, max_wait=10.0, said=NEEDS)
    return make_broker(models=("a", "b", "c"), rules=MemoryRules(**{**vars(given), **rules}))


def leases(actions: list[Action]) -> dict[str, Lease]:
    return {
        a.worker: a.message for a in actions if isinstance(a, TellWorker) and isinstance(a.message, Lease)
    }


def beat(worker: str, **use: int) -> WorkerSaid:
    return WorkerSaid(worker, Heartbeat(epoch="e1", step=1, active=0, memory=MemoryUse(**use)))


def drains(actions: list[Action]) -> list[str]:
    return [a.worker for a in actions if isinstance(a, TellWorker) and isinstance(a.message, Drain)]


def test_an_idle_worker_makes_room_and_the_next_starts_only_when_it_is_gone() -> None:
    broker = two_models_and_room_for_one()
    play(broker, ask("r1"), ready("a#1"), forward("a#1", "r1"))
    assert play(broker, ask("r2", "b"), now=2.0) == []
    assert drains(play(broker, Tick(), now=4.0)) == ["a#1"]
    assert play(broker, Tick(), now=5.0) == []
    assert play(broker, WorkerExited("a#1", 0), now=6.0) == [Spawn("b#2", "b")]


def test_a_busy_worker_finishes_what_it_runs_and_gets_nothing_new_when_its_turn_is_over() -> None:
    broker = two_models_and_room_for_one()
    play(broker, ask("r1"), ready("a#1"), ask("r2", "b"))
    assert run("a#1", "r3") in play(broker, ask("r3"), now=1.0)
    play(broker, forward("a#1", "r3"), Tick(), now=10.0)
    assert play(broker, ask("r4"), now=10.5) == []
    assert drains(play(broker, forward("a#1", "r1"), Tick(), now=11.0)) == ["a#1"]


def test_a_request_waits_for_memory_longer_than_for_a_worker_that_is_ready() -> None:
    """As long as the answers of other models may take: it is their turn."""
    broker = two_models_and_room_for_one()
    play(broker, ask("r1"), ready("a#1"), ask("r2", "b"))
    for now in range(0, 500, 10):
        assert refusals(play(broker, beat("a#1"), ApiSaid(API, Ping()), Tick(), now=now)) == []
    actions = play(broker, beat("a#1"), ApiSaid(API, Ping()), Tick(), now=501.0)
    assert refusals(actions) == [("r2", "queue_full")]
    assert "There was no memory for 'b' within 500 s" in reason(actions)


def test_a_worker_that_was_closed_for_a_request_is_open_again_when_that_leaves() -> None:
    broker = two_models_and_room_for_one()
    play(broker, ask("r1"), ready("a#1"), ask("r2", "b"))
    play(broker, beat("a#1"), Tick(), now=10.0)
    assert play(broker, ask("r4"), now=10.5) == []
    assert run("a#1", "r4") in play(broker, cancel("r2"), now=11.0)


def test_what_can_never_fit_is_refused_at_once_with_the_figures_and_what_to_set() -> None:
    actions = play(two_models_and_room_for_one(), ask("r1", "c"))
    assert refusals(actions) == [("r1", "model_unavailable")]
    assert "it needs 11.00 GB, and of the budget of 8.00 GB 8.00 GB can be free for it" in reason(actions)
    assert "MLX_SERVER_MAX_CACHE_SIZE_GB" in reason(actions)


def test_a_lease_is_told_before_the_first_request_and_grows_into_what_is_free() -> None:
    broker = two_models_and_room_for_one()
    play(broker, ask("r1"))
    actions = play(broker, ready("a#1"), now=1.0)
    first, *_ = actions
    assert isinstance(first, TellWorker)
    assert first.message == Lease(size=0, serial=1)
    assert leases(play(broker, beat("a#1", serial=1), now=1.0))["a#1"] == Lease(size=3 * GB, serial=2)


def test_an_encoder_keeps_no_keys_and_values_and_leaves_what_is_free_to_others() -> None:
    broker = two_models_and_room_for_one()
    play(broker, ask("r1"))
    can = Capabilities(kind="embedding")
    word = Register(token=TOKEN, model="a", pid=7, digest="d", context_length=512, capabilities=can)
    play(broker, WorkerSaid("a#1", word))
    assert leases(play(broker, beat("a#1", serial=1), now=1.0)) == {}


def test_a_worker_that_confirms_no_lease_gets_no_larger_one_so_that_others_need_not_wait_for_it() -> None:
    broker = two_models_and_room_for_one(budget=11 * GB)
    play(broker, ask("r1"), ready("a#1"), beat("a#1"), Tick())
    assert Spawn("b#2", "b") in play(broker, ask("r2", "b"))


def test_a_grown_lease_is_cut_for_another_model_and_its_start_waits_for_the_confirmation() -> None:
    broker = two_models_and_room_for_one(budget=11 * GB)
    play(broker, ask("r1"), ready("a#1"), beat("a#1", serial=1))
    play(broker, beat("a#1", serial=2, obeyed=6 * GB, footprint=5 * GB))
    actions = play(broker, ask("r2", "b"), now=1.0)
    assert leases(actions) == {"a#1": Lease(size=GB, serial=3)}
    assert play(broker, beat("a#1", serial=2, obeyed=6 * GB), Tick(), now=2.0) == []
    assert Spawn("b#2", "b") in play(broker, beat("a#1", serial=3, obeyed=GB), now=3.0)


def test_a_lease_of_an_earlier_broker_goes_on_under_a_later_serial_number() -> None:
    broker = make_broker(models=("a", "b", "c"), rules=MemoryRules(8 * GB, True, said=NEEDS), started=7.0)
    word = Register(token=TOKEN, model="a", pid=7, digest="d", context_length=4096, lease=2 * GB)
    told = [a.message for a in broker.handle(WorkerSaid("a#1", word), 8.0) if isinstance(a, TellWorker)]
    assert told[0] == Lease(size=2 * GB, serial=7001)


def test_a_pinned_model_stays_and_its_memory_is_not_given_away() -> None:
    broker = two_models_and_room_for_one(pinned=frozenset("a"))
    assert refusals(play(broker, ask("r1", "b"))) == [("r1", "model_unavailable")]
    assert Spawn("a#1", "a") in play(broker, ask("r2"))


def test_the_report_has_budget_use_leases_and_decisions_with_their_reasons() -> None:
    broker = two_models_and_room_for_one()
    play(broker, ask("r1"), ready("a#1"), beat("a#1", serial=1), forward("a#1", "r1"), ask("r2", "b"))
    play(broker, Tick(), now=4.0)
    memory = status(broker, now=5.0).memory
    assert (memory.budget, memory.used, memory.leases) == (8 * GB, 8 * GB, {"a#1": 3 * GB})
    decided = [(one.age, one.line) for one in memory.decisions]
    assert (1.0, "evict a#1 for b: 5.0 GB are missing, and these save the least by staying") in decided
    assert decided[0] == (1.0, "b waits: 5.0 GB are missing until the memory of a#1 has come back")
    assert len(decided) <= 50
