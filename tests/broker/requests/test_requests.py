"""What becomes of a request: refused, queued, dispatched, cancelled, replaced."""

import pytest

from broker.core import Broker
from broker.events import ApiSaid, Forget, PassOn, PeerGone, Spawn, TellApi, TellWorker, Tick, WorkerSaid
from broker.requests.scheduler import Limits
from shared.protocol import Ack, Cancel, Failed, Failure, Ping, Pong, Refused
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
    reason,
    refusals,
    run,
    said,
    status,
)


@pytest.fixture
def broker() -> Broker:
    return make_broker()


def test_first_request_for_a_model_waits_and_spawns_its_worker(broker: Broker) -> None:
    assert play(broker, ask("r1")) == [Spawn("a#1", "a")]


def test_second_request_for_a_starting_model_waits_and_spawns_nothing(broker: Broker) -> None:
    assert play(broker, ask("r1"), ask("r2")) == []
    assert play(broker, loading("a#1"), ask("r3")) == []
    assert status(broker).queued == 3


def test_ready_worker_gets_what_waited_for_it_up_to_its_limit(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"), ask("r3"))
    assert play(broker, ready("a#1")) == [run("a#1", "r1"), run("a#1", "r2")]


def test_an_ended_run_makes_room_for_the_next(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"), ask("r3"), ready("a#1"))
    assert play(broker, forward("a#1", "r1")) == [PassOn(API), run("a#1", "r3")]


def test_least_loaded_replica_is_chosen(broker: Broker) -> None:
    play(broker, ready("a-static-1", "a"), ready("a-static-2", "a"), ask("r1"))
    assert play(broker, ask("r2"))[-1] == run("a-static-2", "r2")


def test_unknown_model_is_refused_with_what_was_probably_meant() -> None:
    actions = play(make_broker(["llama-3b"]), ask("r1", model="lama-3b"))
    assert refusals(actions) == [("r1", "model_not_found")]
    assert "'llama-3b'" in reason(actions)


def test_full_queue_of_a_model_is_refused(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"), ask("r3"))
    assert refusals(play(broker, ask("r4"))) == [("r4", "queue_full")]
    assert refusals(play(broker, ask("r5", model="b"))) == []


def test_full_queues_together_are_refused() -> None:
    broker = make_broker(limits=Limits(queue_per_model=2, queue_total=3))
    play(broker, ask("r1"), ask("r2"), ask("r3", model="b"))
    assert refusals(play(broker, ask("r4", model="b"))) == [("r4", "queue_full")]


def told_to_wait(broker: Broker, request_id: str, now: float) -> int:
    [refused] = said(play(broker, ask(request_id), now=now))
    assert isinstance(refused, Refused) and refused.failure.retry_after
    return refused.failure.retry_after


@pytest.mark.parametrize(("waited", "least", "most"), [(0, 1, 2), (7, 7, 9), (99, 60, 60)])
def test_retry_after_is_at_least_the_age_of_the_oldest_request(
    broker: Broker, waited: float, least: int, most: int
) -> None:
    play(broker, ask("r1"), ask("r2"), ask("r3"))
    assert least <= told_to_wait(broker, "r4", now=waited) <= most


def test_retry_after_is_how_long_the_queue_takes_as_fast_as_runs_end(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"))
    play(broker, forward("a#1", "r1"), ask("r2"), ask("r3"), ask("r4"), ask("r5"), ask("r6"), now=10)
    assert 20 <= told_to_wait(broker, "r7", now=10) <= 26


def test_requests_that_are_refused_together_do_not_come_back_together(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"), ask("r3"))
    assert len({told_to_wait(broker, f"x{number}", now=20) for number in range(50)}) > 3


def test_requests_that_resume_go_before_those_that_begin_and_need_no_room(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"), ask("r3"))
    assert play(broker, ask("x", attempt=2)) == []
    assert play(broker, ask("y", attempt=3)) == []
    assert play(broker, ready("a#1")) == [run("a#1", "x", attempt=2), run("a#1", "y", attempt=3)]


def test_request_too_long_in_the_queue_is_refused(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"), ready("a#1"), ask("r3"))
    play(broker, beat("a#1"), ApiSaid(API, Ping()), now=100)
    assert play(broker, Tick(), now=100) == []
    play(broker, beat("a#1"), ApiSaid(API, Ping()), now=101)
    assert refusals(play(broker, Tick(), now=101)) == [("r3", "queue_full")]


def test_time_in_which_the_model_loads_does_not_count(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"), ask("r3"))
    for now in range(0, 300, 10):
        play(broker, loading("a#1", done=now), ApiSaid(API, Ping()), now=now)
        assert play(broker, Tick(), now=now) == []
    play(broker, ready("a#1"), now=300)
    play(broker, beat("a#1"), ApiSaid(API, Ping()), now=399)
    assert play(broker, Tick(), now=399) == []
    play(broker, beat("a#1"), ApiSaid(API, Ping()), now=401)
    assert refusals(play(broker, Tick(), now=401)) == [("r3", "queue_full")]


def test_a_second_replica_restarts_no_requests_age(broker: Broker) -> None:
    play(broker, *(ask(f"r{number}") for number in range(3)), ready("a#1"), ask("r3"), ask("r4"))
    play(broker, ready("static", "a"), ask("r5"), now=60)
    play(broker, beat("a#1"), beat("static"), ApiSaid(API, Ping()), now=101)
    assert refusals(play(broker, Tick(), now=101)) == [("r4", "queue_full")]


def test_cancelling_a_waiting_request_removes_it(broker: Broker) -> None:
    assert play(broker, ask("r1"), cancel("r1")) == []
    assert play(broker, ready("a#1")) == []


def test_cancelling_a_run_tells_its_worker_and_frees_the_slot_at_once(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"), ask("r3"), ready("a#1"))
    told = TellWorker("a#1", Cancel(request_id="r1"))
    assert play(broker, cancel("r1")) == [told, run("a#1", "r3")]
    assert status(broker).in_flight == 2


def test_a_cancel_of_an_unknown_request_does_nothing(broker: Broker) -> None:
    assert play(broker, cancel("r9")) == []


def test_same_attempt_twice_is_one_request(broker: Broker) -> None:
    assert play(broker, ask("r1"), ask("r1")) == []
    assert play(broker, ready("a#1"), ask("r1")) == []
    assert status(broker).in_flight == 1


def test_higher_attempt_replaces_the_waiting_one(broker: Broker) -> None:
    assert play(broker, ask("r1"), ask("r1", attempt=2)) == []
    assert play(broker, ready("a#1")) == [run("a#1", "r1", attempt=2)]


def test_a_running_request_goes_on_where_it_runs_under_the_higher_attempt(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"))
    assert play(broker, ask("r1", attempt=2)) == [run("a#1", "r1", attempt=2)]
    assert play(broker, ask("r1", attempt=2)) == []


def test_end_of_a_replaced_run_does_not_end_the_new_one(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"), ask("r1", attempt=2))
    play(broker, forward("a#1", "r1", attempt=1))
    assert status(broker).in_flight == 1
    play(broker, forward("a#1", "r1", attempt=2))
    assert status(broker).in_flight == 0


def test_ack_is_passed_to_the_worker_that_runs_it(broker: Broker) -> None:
    ack = Ack(request_id="r1", choice=0, next_index=32)
    play(broker, ask("r1"), ready("a#1"))
    assert play(broker, ApiSaid(API, ack)) == [TellWorker("a#1", ack)]
    assert play(broker, forward("a#1", "r1"), ApiSaid(API, ack)) == []


def test_a_request_that_cannot_run_is_refused_in_the_workers_words(broker: Broker) -> None:
    failure = Failure(status=400, code="context_length_exceeded", message="too long")
    play(broker, ask("r1"), ready("a#1"))
    failed = WorkerSaid("a#1", Failed(request_id="r1", attempt=1, failure=failure))
    assert play(broker, failed) == [TellApi(API, Refused(request_id="r1", attempt=1, failure=failure))]
    assert play(broker, failed) == []


def test_failure_of_a_replaced_run_is_ignored(broker: Broker) -> None:
    failure = Failure(status=400, code="c", message="m")
    play(broker, ask("r1"), ready("a#1"), ask("r1", attempt=2))
    assert play(broker, WorkerSaid("a#1", Failed(request_id="r1", attempt=1, failure=failure))) == []


def test_api_learns_the_epoch(broker: Broker) -> None:
    assert play(broker, ApiSaid(API, Ping())) == [TellApi(API, Pong(epoch="e1"))]


def test_silent_api_loses_its_requests(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"), ready("a#1"), ask("r3"))
    play(broker, ask("r9", model="b", api="api-2"), beat("a#1"), now=10.5)
    assert play(broker, Tick(), now=10.6) == [
        Forget(API),
        TellWorker("a#1", Cancel(request_id="r1")),
        TellWorker("a#1", Cancel(request_id="r2")),
    ]
    assert status(broker).queued == 1


def test_unreachable_api_loses_its_requests_and_sees_a_new_epoch_if_it_comes_back(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"))
    assert play(broker, PeerGone(API)) == [Forget(API), TellWorker("a#1", Cancel(request_id="r1"))]
    assert play(broker, ApiSaid(API, Ping())) == [TellApi(API, Pong(epoch="e1.1"))]
    assert play(broker, ApiSaid(API, Ping())) == [TellApi(API, Pong(epoch="e1.1"))]
