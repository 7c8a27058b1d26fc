"""A new broker: workers of the earlier one come back with what they retain, and nothing is dispatched before."""

from broker.core import Broker
from broker.events import ApiSaid, Exit, Kill, Spawn, StopAll, TellWorker, Terminate, Tick, WorkerExited
from broker.startup import Survivor
from shared.protocol import Cancel, Done, Drain, Ping, Pong
from tests.broker.plays import (
    API,
    ask,
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

OURS = Survivor("a#old", "a", pid=7, spawned=True, ready=True)
LOADING = Survivor("b#old", "b", pid=8, spawned=True, ready=False)
STATIC = Survivor("static", "a", pid=9, spawned=False, ready=True)


def successor(*survivors: Survivor) -> Broker:
    return make_broker(survivors=survivors)


# ---------------------------------------------------------------- the time for recovery


def test_without_survivors_there_is_no_recovery() -> None:
    assert play(successor(), ask("r1"))[-1] == Spawn("a#1", "a")


def test_while_workers_may_come_back_requests_wait_and_nothing_is_spawned() -> None:
    broker = successor(OURS)
    assert play(broker, ask("r1"), ask("r2", model="b"), now=1.9) == []
    assert play(broker, Tick(), now=2.1) == [Spawn("b#1", "b")]


def test_the_last_survivor_that_comes_back_ends_the_recovery() -> None:
    broker = successor(OURS, LOADING)
    play(broker, ask("r1"))
    assert play(broker, ready("a#old")) == []
    assert play(broker, loading("b#old"))[-1] == run("a#old", "r1")


def test_a_survivor_that_dies_is_not_awaited_and_counts_as_no_failed_load() -> None:
    broker = successor(OURS)
    play(broker, ask("r1"))
    assert play(broker, WorkerExited("a#old", None)) == [Spawn("a#1", "a")]


def test_a_survivor_that_was_still_loading_and_dies_is_a_failed_load() -> None:
    broker = successor(LOADING)
    play(broker, ask("r1", model="b"))
    assert play(broker, WorkerExited("b#old", None)) == [Spawn("b#1", "b")]
    assert refusals(play(broker, WorkerExited("b#1", 1))) == [("r1", "model_unavailable")]


def test_a_survivor_that_stays_away_is_killed() -> None:
    broker = successor(OURS)
    play(broker, ask("r1"), ApiSaid(API, Ping()), now=4)
    assert play(broker, Tick(), now=4.9) == []
    assert play(broker, Tick(), now=5.1) == [Kill("a#old")]
    assert play(broker, WorkerExited("a#old", None), now=5.2) == [Spawn("a#1", "a")]


def test_a_survivor_that_no_broker_spawned_is_awaited_and_never_signalled() -> None:
    broker = successor(STATIC)
    assert play(broker, ask("r1")) == []
    assert play(broker, ready("static", "a")) == [run("static", "r1")]
    assert not status(broker).workers[0].spawned


def test_a_worker_that_an_earlier_broker_spawned_is_stopped_by_this_one() -> None:
    broker = successor(OURS)
    play(broker, ready("a#old"))
    assert status(broker).workers[0].spawned
    assert play(broker, StopAll()) == [TellWorker("a#old", Drain())]
    assert play(broker, WorkerExited("a#old", None)) == [Exit()]


def test_a_broker_that_is_told_to_stop_ends_a_worker_that_has_not_come_back_yet() -> None:
    broker = successor(OURS)
    assert play(broker, StopAll()) == [Terminate("a#old")]
    assert play(broker, WorkerExited("a#old", None)) == [Exit()]


def test_the_next_broker_learns_which_workers_live() -> None:
    broker = successor(OURS)
    play(broker, ready("static", "a"), ask("r1", model="b"), Tick(), now=3)
    assert [(one.id, one.spawned, one.ready) for one in broker.known] == [
        ("a#old", True, True),
        ("static", False, True),
        ("b#1", True, False),
    ]


# ---------------------------------------------------------------- what workers retain


def test_a_retained_request_goes_on_where_it_is_whether_api_or_worker_comes_first() -> None:
    broker = successor(OURS)
    assert play(broker, ask("r1", attempt=2)) == []
    assert play(broker, ready("a#old", held={"r1": 1, "r2": 1})) == [run("a#old", "r1", attempt=2)]
    assert play(broker, ask("r2", attempt=2)) == [run("a#old", "r2", attempt=2)]


def test_retained_requests_go_on_during_the_recovery_and_beyond_max_in_flight() -> None:
    broker = successor(OURS, LOADING)
    play(broker, ready("a#old", held={"r1": 1, "r2": 1, "r3": 1}))
    for request_id in ("r1", "r2", "r3"):
        assert play(broker, ask(request_id, attempt=2)) == [run("a#old", request_id, attempt=2)]


def test_the_holder_of_the_newest_attempt_goes_on_and_the_others_are_cancelled() -> None:
    broker = successor(OURS, STATIC)
    play(broker, ready("a#old", held={"r1": 1}), ready("static", "a", held={"r1": 2}))
    assert play(broker, ask("r1", attempt=3)) == [
        run("static", "r1", attempt=3),
        TellWorker("a#old", Cancel(request_id="r1")),
    ]


def test_a_retained_request_that_no_api_claims_is_cancelled_after_the_silence_of_an_api() -> None:
    broker = make_broker()
    play(broker, ready("static", "a", held={"r1": 1}))
    play(broker, forward("static"), now=9.9)
    assert play(broker, Tick(), now=9.9) == []
    assert play(broker, Tick(), now=10.1) == [TellWorker("static", Cancel(request_id="r1"))]


def test_retained_requests_take_room_of_their_worker() -> None:
    broker = make_broker()
    play(broker, ready("static", "a", held={"r1": 1, "r2": 1}))
    assert play(broker, ask("r3")) == []
    assert play(broker, cancel("r1"))[-1] == run("static", "r3")


def test_a_register_that_was_sent_to_an_earlier_broker_is_answered_with_a_pong() -> None:
    """It may have got runs since, so it is asked again."""
    broker = successor(OURS)
    play(broker, ask("r1", attempt=2))
    assert play(broker, ready("a#old", epoch="e0")) == [TellWorker("a#old", Pong(epoch="e1"))]
    assert play(broker, ready("a#old", held={"r1": 1}, epoch="e1")) == [run("a#old", "r1", attempt=2)]


def test_an_end_that_got_lost_is_sent_again_by_the_worker_that_retains_it() -> None:
    broker = make_broker()
    play(broker, ready("static", "a"), ask("r1"), forward("static", "r1", attempt=1))
    assert play(broker, ask("r1", attempt=2)) == [run("static", "r1", attempt=2)]


def test_the_worker_that_retains_an_end_hears_that_the_api_has_it() -> None:
    broker = make_broker()
    play(broker, ready("static", "a"), ask("r1"), forward("static", "r1", attempt=1))
    done = Done(request_id="r1")
    assert play(broker, ApiSaid(API, done)) == [TellWorker("static", done)]
    assert play(broker, ApiSaid(API, done)) == []
