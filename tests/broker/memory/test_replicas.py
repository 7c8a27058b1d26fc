"""How many workers a model has: when it gets another, in whose memory, and when one leaves; by plays of the broker."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import Broker
from broker.events import (
    Action,
    ApiSaid,
    Event,
    SettingsRead,
    Spawn,
    TellWorker,
    Terminate,
    Tick,
    WorkerExited,
    WorkerSaid,
)
from broker.memory.decisions import GB, Evict, Shrink, Start
from broker.memory.eviction import plan
from broker.memory.ledger import Entry
from broker.memory.replicas import GROW_AFTER, SHRINK_AFTER, More, another, with_replicas
from broker.requests.scheduler import Limits
from broker.rules import Changes, MemoryRules
from broker.workers.lifecycle import State
from shared.model_table import Replicas
from shared.protocol import Drain, Heartbeat, Lease, MemoryUse, Order, OrderReply, Ping, Resubmit
from tests.broker.ledgers import A, B, C, ledger, worker
from tests.broker.plays import (
    API,
    ask,
    cancel,
    forward,
    load_failed,
    loading,
    make_broker,
    play,
    ready,
    refusals,
    run,
    said,
    status,
)

WIDE = Limits(max_in_flight=2, queue_per_model=20, queue_total=40, queue_age=100)


def broker_with(least: int = 1, most: int = 2, **rules: Any) -> Broker:
    given = {"budget": 9 * GB, "lends": True, "said": dict.fromkeys("abc", 3 * GB), "min_stay": 1.0}
    replicas = {"a": Replicas(least, most)}
    return make_broker(
        models=("a", "b", "c"), limits=WIDE, rules=MemoryRules(**{**given, "replicas": replicas, **rules})
    )


def requests(broker: Broker, *numbers: int, now: float = 0.0) -> list[Action]:
    return play(broker, *(ask(f"r{number}") for number in numbers), now=now)


def beat(worker: str, waited: float = 0.0, **use: int) -> WorkerSaid:
    word = Heartbeat(epoch="e1", step=1, active=0, memory=MemoryUse(**use), engine={"waited": waited})
    return WorkerSaid(worker, word)


def at(broker: Broker, now: float, **waited: float) -> list[Action]:
    """Time has passed, and whoever lives has said so: what came of all that. ``waited``: by worker."""
    words = [
        beat(worker, waited.get(worker.replace("#", ""), 0.0)) for worker in ("a#1", "a#2", "a#3", "b#2")
    ]
    events: list[Event] = [ApiSaid(API, Ping()), *words, Tick()]
    return [action for event in events for action in play(broker, event, now=now)]


def spawned(actions: list[Action]) -> list[str]:
    return [action.worker for action in actions if isinstance(action, Spawn)]


def drained(actions: list[Action]) -> list[str]:
    return [a.worker for a in actions if isinstance(a, TellWorker) and isinstance(a.message, Drain)]


def queueing(**rules: Any) -> Broker:
    """One worker that runs two requests, and a third one that waits since 0."""
    broker = broker_with(**rules)
    play(broker, ask("r1"), ready("a#1"))
    requests(broker, 2, 3)
    return broker


def pair(**rules: Any) -> Broker:
    """Two idle workers at 4."""
    broker = queueing(**rules)
    at(broker, GROW_AFTER)
    play(broker, ready("a#2"), Tick(), forward("a#1", "r1", "r2"), forward("a#2", "r3"), now=4.0)
    return broker


# ---------------------------------------------------------------- growing


def test_a_model_gets_another_worker_when_a_request_has_waited_in_its_queue() -> None:
    broker = queueing()
    assert spawned(at(broker, GROW_AFTER - 0.1)) == []
    assert spawned(at(broker, GROW_AFTER)) == ["a#2"]
    assert run("a#2", "r3") in play(broker, ready("a#2"), now=3.0)


def test_a_queue_that_is_short_lived_starts_nothing() -> None:
    broker = queueing()
    at(broker, 1.0)
    play(broker, forward("a#1", "r1"), now=1.5)
    requests(broker, 4, now=1.5)
    assert spawned(at(broker, GROW_AFTER)) == []


def test_a_model_has_no_more_workers_than_its_operator_has_said() -> None:
    broker = pair()
    requests(broker, *range(10, 20), now=5.0)
    assert spawned(at(broker, 60.0)) == []
    assert spawned(at(queueing(replicas={}), 60.0)) == []


def test_one_worker_comes_at_a_time_and_is_given_the_time_to_shorten_the_queue() -> None:
    broker = queueing(most=4)
    requests(broker, *range(10, 20))
    assert spawned(at(broker, 2.0)) == ["a#2"]
    assert spawned(at(broker, 9.0)) == []
    play(broker, ready("a#2"), now=10.0)
    assert spawned(at(broker, 10.0 + GROW_AFTER - 0.1)) == []
    assert spawned(at(broker, 10.0 + GROW_AFTER)) == ["a#3"]


def test_a_queue_within_every_worker_counts_and_one_within_some_does_not() -> None:
    broker = broker_with(most=3)
    play(broker, ask("r1"), ready("a#1"))
    assert spawned(at(broker, 5.0, a1=3.0)) == ["a#2"]
    play(broker, ready("a#2"), now=6.0)
    assert spawned(at(broker, 20.0, a1=9.0)) == []
    assert spawned(at(broker, 21.0, a1=9.0, a2=2.5)) == ["a#3"]


def test_a_loaded_model_gets_its_least_number_without_a_queue_and_one_that_is_not_loaded_gets_none() -> None:
    broker = broker_with(2, 2)
    assert spawned(at(broker, 1.0)) == []
    assert spawned(requests(broker, 1, now=1.0)) == ["a#1"]
    assert spawned(play(broker, ready("a#1"), now=2.0)) == ["a#2"]
    play(broker, ready("a#2"), WorkerExited("a#2", -9), now=3.0)
    assert spawned(at(broker, 3.5)) in (["a#3"], [])
    assert len(status(broker, 4.0).workers) == 2


def test_static_workers_count() -> None:
    broker = broker_with()
    play(broker, ready("static-1", "a"), ready("static-2", "a"))
    requests(broker, 1, 2, 3, 4, 5)
    assert spawned(at(broker, 4.0)) == []


# ---------------------------------------------------------------- memory


def test_nothing_is_evicted_for_another_worker() -> None:
    broker = queueing(budget=8 * GB)
    play(broker, ask("b1", "b"), ready("b#2"), forward("b#2", "b1"))
    for now in (2.0, 20.0, 50.0):
        actions = at(broker, now)
        assert (spawned(actions), drained(actions)) == ([], [])


def test_unused_leases_are_cut_for_it_and_it_starts_when_the_cut_is_confirmed() -> None:
    broker = queueing(budget=7 * GB)
    grown = beat("a#1", serial=1), beat("a#1", serial=2, obeyed=4 * GB)
    play(broker, *grown, now=1.0)
    cut = play(broker, beat("a#1", serial=2, obeyed=4 * GB), now=2.0)
    assert spawned(cut) == []
    [lease] = [a.message for a in cut if isinstance(a, TellWorker) and isinstance(a.message, Lease)]
    assert spawned(play(broker, beat("a#1", serial=2, obeyed=4 * GB), Tick(), now=2.5)) == []
    assert spawned(play(broker, beat("a#1", serial=lease.serial, obeyed=lease.size), now=3.0)) == ["a#2"]


def test_kept_prompts_do_not_give_way_to_another_worker() -> None:
    more = [More(B, "why")]
    full = worker(A, 4 * GB, kept=4 * GB)
    assert another(more, ledger(full, budget=12)) is None
    assert another(more, ledger(replace(full, usage=replace(full.usage, kept=0)), budget=12)) == Shrink(
        {"a#1": GB}, "b", "why"
    )
    assert isinstance(another(more, ledger(full, budget=15)), Start)


def test_models_that_wait_for_memory_come_before_another_worker() -> None:
    broker = queueing(budget=6 * GB, said={"a": 3 * GB, "b": 4 * GB, "c": GB})
    play(broker, ask("b1", "b"), Tick(), now=1.9)
    assert spawned(at(broker, 2.0)) == []


def test_a_replica_is_evicted_before_the_last_worker_of_any_model() -> None:
    dear = replace(A, load_seconds=100.0, rate=9.0)
    first, second = worker(dear), replace(worker(dear), worker="a#2")
    cheap = replace(worker(C), need=replace(C, load_seconds=0.1))
    entries = with_replicas([first, second, cheap])
    decision = plan(B, ledger(*entries, budget=18), 100.0)
    assert isinstance(decision, Evict)
    assert decision.victims == ("a#2",)


def test_the_worker_that_counts_as_the_last_is_an_operators_or_the_busiest() -> None:
    first, second = worker(), replace(worker(), worker="a#2")

    def replicas(*entries: Entry) -> list[str]:
        return [entry.worker for entry in with_replicas(entries) if entry.replica]

    assert replicas(first) == []
    assert replicas(first, second) == ["a#2"]
    assert replicas(first, replace(second, running=1)) == ["a#1"]
    assert replicas(replace(first, running=1), replace(second, static=True)) == ["a#1"]
    assert replicas(replace(first, closed=True), second) == ["a#1"]
    assert replicas(first, replace(second, state=State.DRAINING)) == ["a#2"]
    assert replicas(replace(first, state=State.LOADING)) == []


def test_a_pinned_model_keeps_one_worker_and_its_replicas_make_room() -> None:
    pinned = replace(A, pinned=True)
    entries = with_replicas([worker(pinned), replace(worker(pinned), worker="a#2")])
    assert [entry.stays for entry in entries] == [True, False]


# ---------------------------------------------------------------- shrinking


def test_an_idle_worker_beyond_the_least_leaves_after_a_minute_and_the_last_stays() -> None:
    broker = pair()
    assert drained(at(broker, 4.0 + SHRINK_AFTER)) == []
    assert drained(at(broker, 4.5 + SHRINK_AFTER)) == ["a#2"]
    play(broker, WorkerExited("a#2", 0), now=66.0)
    assert drained(at(broker, 500.0)) == []
    assert spawned(at(broker, 501.0)) == []


def test_a_worker_with_a_request_does_not_leave_and_the_idle_one_does() -> None:
    broker = pair()
    busy = requests(broker, 5, now=5.0)
    assert run("a#1", "r5") in busy
    at(broker, 30.0)
    requests(broker, 6, now=31.0)
    assert drained(at(broker, 90.0)) == []
    assert drained(at(broker, 95.0)) == []
    play(broker, forward("a#2", "r6"), now=96.0)
    assert drained(at(broker, 96.5 + SHRINK_AFTER)) == ["a#2"]


def test_the_ttl_ends_replicas_sooner_and_the_least_number_together() -> None:
    broker = pair(least=2, ttl={"a": 9.0})
    requests(broker, 5, now=5.0)
    assert drained(at(broker, 20.0)) == []
    play(broker, Tick(), forward("a#1", "r5"), now=21.0)
    assert drained(at(broker, 29.9)) == []
    assert sorted(drained(at(broker, 30.5))) == ["a#1", "a#2"]
    assert drained(at(pair(ttl={"a": 9.0}), 13.5)) == ["a#2", "a#1"]


def test_a_load_beside_a_worker_goes_on_though_nothing_queues_any_more() -> None:
    broker = queueing()
    at(broker, 2.0)
    play(broker, loading("a#2"), cancel("r3"), now=2.5)
    for now in range(3, 29):
        play(broker, loading("a#2", done=now), now=now)
        assert Terminate("a#2") not in at(broker, now)


def test_fewer_workers_in_new_settings_drain_those_that_have_least_to_do() -> None:
    broker = pair()
    requests(broker, 5, now=5.0)
    rules = MemoryRules(9 * GB, True, replicas={"a": Replicas()})
    changed = SettingsRead(Changes(("a", "b", "c"), rules))
    assert drained(play(broker, changed, now=6.0)) == ["a#2"]
    assert drained(play(broker, changed, now=7.0)) == []


# ---------------------------------------------------------------- faults and orders


def test_a_worker_that_fails_to_load_beside_others_is_tried_later_and_refuses_nothing() -> None:
    broker = queueing()
    at(broker, 2.0)
    actions = play(broker, load_failed("a#2", permanent=True), now=3.0)
    play(broker, WorkerExited("a#2", 1), now=3.1)
    assert refusals(actions) == []
    assert spawned(at(broker, 9.0)) == []
    assert spawned(at(broker, 14.0)) == ["a#3"]
    assert status(broker, 14.0).models[0].state == "hot"


def test_what_a_lost_replica_ran_goes_on_with_the_other() -> None:
    broker = pair()
    requests(broker, 5, 6, now=5.0)
    lost = play(broker, WorkerExited("a#2", -9), now=6.0)
    assert [type(message) for message in said(lost)] == [Resubmit]
    assert run("a#1", "r6", attempt=2) in play(broker, ask("r6", attempt=2), now=6.1)


@pytest.mark.parametrize("action", ["unload", "reload"])
def test_orders_are_for_all_workers_of_a_model(action: Any) -> None:
    broker = pair(budget=30 * GB)
    actions = play(broker, ApiSaid(API, Order(query="q", action=action, model="a", wait=True)), now=5.0)
    if action == "reload":
        assert spawned(actions) == ["a#3"]
        actions = play(broker, ready("a#3"), now=6.0)
    assert drained(actions) == ["a#1", "a#2"]
    ends = [*play(broker, WorkerExited("a#1", 0), now=7.0), *play(broker, WorkerExited("a#2", 0), now=7.1)]
    [reply] = said(ends)
    assert isinstance(reply, OrderReply)
    assert (reply.done, reply.state) == (True, "loadable" if action == "unload" else "hot")


def test_the_report_says_how_many_workers_serve_of_how_many() -> None:
    model = status(pair(), 5.0).models[0]
    assert (model.workers, model.replicas) == (2, "1-2")
    assert (status(pair(), 5.0).models[1].workers, status(pair(), 5.0).models[1].replicas) == (0, "1")


# ---------------------------------------------------------------- whatever happens


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(list(State)), st.integers(0, 3)), max_size=6
    ),
    st.integers(1, 30),
)
def test_no_decision_for_another_worker_takes_memory_that_is_used(
    workers: list[tuple[str, State, int]], budget: int
) -> None:
    needs = {"a": A, "b": B}
    entries = [
        replace(
            worker(needs[model], (1 + kept) * GB, kept=kept * GB // 2),
            worker=f"{model}#{number}",
            state=state,
        )
        for number, (model, state, kept) in enumerate(workers)
    ]
    found = ledger(*entries, budget=budget)
    match another([More(A, "why"), More(B, "why")], found):
        case Start(model):
            assert needs[model].total <= found.free(model)
        case Shrink(leases):
            for entry in entries:
                left = leases.get(entry.worker, entry.lease.size)
                assert left >= min(entry.lease.size, entry.usage.kept + entry.usage.committed)
        case decision:
            assert decision is None
