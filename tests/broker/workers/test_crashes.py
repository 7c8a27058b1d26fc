"""Engines that hang, requests that crash workers, models that never load; and the crash reports."""

import signal

import pytest

from broker.core import Broker
from broker.events import (
    Abort,
    Action,
    ApiSaid,
    Event,
    Kill,
    PeerGone,
    Spawn,
    TellApi,
    TellWorker,
    Tick,
    WorkerExited,
    WorkerSaid,
)
from broker.models.load_failures import LoadFailures
from broker.requests.quarantine import PROBATION_TOKENS
from broker.startup import Timeouts
from broker.workers.exit_causes import Fault, of_exit
from shared.protocol import Ack, Heartbeat, Hosted, MemoryUse, Ping, Refused, Resubmit, RunHeader, Sampling
from shared.wire import header_of
from tests.broker.plays import (
    API,
    ask,
    forward,
    make_broker,
    play,
    ready,
    reason,
    refusals,
    run,
    said,
    status,
    submit,
)

CRASH = -signal.SIGSEGV


@pytest.fixture
def broker() -> Broker:
    return make_broker(timeouts=Timeouts(silence=50, stall=30))


def beat(worker: str, step: int, active: int, preparing: int = 0) -> WorkerSaid:
    engine: dict[str, float | int | str] = {"phase": "decode"}
    said = Heartbeat(
        epoch="e1",
        step=step,
        active=active,
        preparing=preparing,
        memory=MemoryUse(footprint=1000),
        engine=engine,
    )
    return WorkerSaid(worker, said)


def crash(worker: str, code: int = CRASH) -> WorkerExited:
    return WorkerExited(worker, code, ("Fatal Python error",))


def ack(request_id: str, next_index: int) -> ApiSaid:
    return ApiSaid(API, Ack(request_id=request_id, choice=0, next_index=next_index))


def runs(actions: list[Action]) -> list[str]:
    return [
        action.message.submit.request_id
        for action in actions
        if isinstance(action, TellWorker) and isinstance(action.message, RunHeader)
    ]


# ---------------------------------------------------------------- stalls


def test_a_busy_engine_without_a_step_is_aborted_and_its_requests_come_again(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"), beat("a#1", 5, 1))
    play(broker, beat("a#1", 5, 1), ApiSaid(API, Ping()), now=30)
    assert play(broker, Tick(), now=30) == []
    actions = play(broker, Tick(), now=30.5)
    assert actions[-1] == Abort("a#1")
    assert isinstance(actions[0], TellApi) and isinstance(actions[0].message, Resubmit)
    assert "made no step for 30 s" in actions[0].message.reason
    assert play(broker, Tick(), now=30.6) == []
    play(broker, ApiSaid(API, Ping()), now=80)
    assert play(broker, Tick(), now=81) == [Kill("a#1")]


def test_an_idle_engine_is_never_stalled(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"), beat("a#1", 5, 0))
    play(broker, beat("a#1", 5, 0), ApiSaid(API, Ping()), now=40)
    assert play(broker, Tick(), now=40) == []
    play(broker, beat("a#1", 5, 1), now=41)
    assert play(broker, Tick(), now=70) == []


def test_a_slow_engine_has_five_times_its_slowest_step(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"), beat("a#1", 5, 1))
    play(broker, beat("a#1", 6, 1), ApiSaid(API, Ping()), now=10)
    play(broker, beat("a#1", 6, 1), ApiSaid(API, Ping()), now=55)
    assert play(broker, Tick(), now=59) == []
    assert play(broker, Tick(), now=61)[-1] == Abort("a#1")


# ---------------------------------------------------------------- poison


def crashes(broker: Broker, *requests: str, times: int) -> None:
    """They run together on one worker after another, which crashes."""
    for number in range(1, times + 1):
        play(broker, *(ask(id, attempt=number, losses=number - 1) for id in requests))
        play(broker, ready(f"a#{number}"), crash(f"a#{number}"))


def again(request_id: str) -> Event:
    return ask(request_id, attempt=3)


def test_one_crash_makes_no_request_a_suspect(broker: Broker) -> None:
    crashes(broker, "good", "bad", times=1)
    play(broker, ask("good", attempt=2), ask("bad", attempt=2))
    assert runs(play(broker, ready("a#2"))) == ["good", "bad"]


def test_after_two_crashes_suspects_run_one_at_a_time_and_nothing_beside_them(broker: Broker) -> None:
    crashes(broker, "good", "bad", times=2)
    play(broker, again("good"), again("bad"), ask("new"))
    assert runs(play(broker, ready("a#3"))) == ["good"]
    assert runs(play(broker, ack("good", PROBATION_TOKENS - 1))) == []
    assert runs(play(broker, ack("good", PROBATION_TOKENS))) == ["bad"]
    assert runs(play(broker, forward("a#3", "good", attempt=3))) == []


def test_a_request_that_crashes_on_probation_is_quarantined_and_cleared_ones_come_again(
    broker: Broker,
) -> None:
    crashes(broker, "good", "bad", times=2)
    play(broker, again("good"), again("bad"), ready("a#3"), ack("good", PROBATION_TOKENS))
    actions = play(broker, crash("a#3"))
    assert refusals(actions) == [("bad", "request_crashed_engine")]
    assert [word.request_id for word in said(actions) if isinstance(word, Resubmit)] == ["good"]
    play(broker, ask("good", attempt=4))
    assert runs(play(broker, ready("a#4"))) == ["good"]


def test_a_quarantined_request_is_refused_at_once_for_ten_minutes(broker: Broker) -> None:
    crashes(broker, "bad", times=2)
    play(broker, again("bad"), ready("a#3"), crash("a#3"), now=5)
    [action] = play(broker, ask("bad-again"), now=600)
    assert isinstance(action, TellApi) and isinstance(action.message, Refused)
    assert (action.message.failure.status, action.message.failure.code) == (422, "request_crashed_engine")
    assert refusals(play(broker, ask("bad-later"), now=606)) == []


def test_a_hosted_request_is_quarantined_at_its_second_crash_because_there_is_no_third_try(
    broker: Broker,
) -> None:
    bad, good = (Hosted(endpoint="chat", size=1, digest=digest) for digest in ("1", "2"))
    play(broker, ask("bad", task=bad), ask("good", task=good), ready("a#1"), crash("a#1"))
    play(broker, ask("bad", attempt=2, task=bad), ask("good", attempt=2, task=good))
    assert runs(play(broker, ready("a#2"))) == ["bad"]
    assert refusals(play(broker, crash("a#2"))) == [("bad", "request_crashed_engine")]
    [action] = play(broker, ask("bad-again", task=bad))
    assert isinstance(action, TellApi) and isinstance(action.message, Refused)
    assert action.message.failure.status == 422


def test_a_probation_that_ends_in_any_other_way_lets_the_next_suspect_run(broker: Broker) -> None:
    crashes(broker, "good", "bad", times=2)
    play(broker, again("good"), again("bad"), ready("a#3"))
    assert runs(play(broker, forward("a#3", "good", attempt=3))) == ["bad"]


def test_no_request_is_quarantined_for_a_kill_from_outside(broker: Broker) -> None:
    crashes(broker, "bad", times=2)
    play(broker, again("bad"), ready("a#3"))
    assert refusals(play(broker, WorkerExited("a#3", -signal.SIGKILL))) == []


def test_a_connection_that_breaks_before_its_crash_is_known_hides_no_crash(broker: Broker) -> None:
    crashes(broker, "bad", times=2)
    play(broker, again("bad"), ready("a#3"))
    assert refusals(play(broker, PeerGone("a#3"), WorkerExited("a#3", -signal.SIGABRT))) == [
        ("bad", "request_crashed_engine")
    ]


def test_requests_that_differ_in_their_api_key_have_one_fingerprint() -> None:
    one = submit("r1", caller="a")
    generation = one.generation.model_copy(update={"cache_namespace": "b"})
    other = one.model_copy(update={"task": generation, "caller": "b"})
    assert header_of(one).fingerprint == header_of(other).fingerprint


def test_requests_that_differ_in_their_seed_have_one_fingerprint() -> None:
    one = submit("r1")
    sampling = Sampling(seed=99)
    other = one.model_copy(
        update={"task": one.generation.model_copy(update={"sampling": sampling}), "request_id": "r2"}
    )
    assert header_of(one).fingerprint == header_of(other).fingerprint
    assert header_of(one).fingerprint != header_of(submit("r1", model="b")).fingerprint


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (0, Fault.NONE),
        (70, Fault.CRASH),
        (-signal.SIGABRT, Fault.CRASH),
        (-signal.SIGKILL, Fault.OUTSIDE),
        (-signal.SIGTERM, Fault.OUTSIDE),
        (None, Fault.OUTSIDE),
    ],
)
def test_only_crashes_make_suspects(code: int | None, fault: Fault) -> None:
    assert of_exit(code).fault is fault


# ---------------------------------------------------------------- models that never load


def fail_loads(broker: Broker, times: int) -> float:
    """Each as soon as it may be tried; gives when the last one failed."""
    now = 0.0
    play(broker, ask("r0"), now=now)
    for number in range(1, times + 1):
        while not any(worker.id == f"a#{number}" for worker in status(broker, now).workers):
            now += 0.5
            play(broker, ask(f"r{number}"), Tick(), now=now)
        play(broker, crash(f"a#{number}", 1), now=now)
    return now


def test_five_failed_loads_in_ten_minutes_open_the_breaker() -> None:
    broker = make_broker()
    now = fail_loads(broker, 5)
    assert "exited with code 1" in reason(play(broker, ask("next"), now=now + 59))
    assert status(broker, now).models[0].state == "failed"
    assert play(broker, ask("other", model="b"), now=now)[-1] == Spawn("b#6", "b")


def test_each_minute_one_load_tries_the_open_breaker() -> None:
    broker = make_broker()
    now = fail_loads(broker, 5)
    assert play(broker, ask("probe"), now=now + 60.1)[-1] == Spawn("a#6", "a")
    play(broker, crash("a#6", 1), now=now + 61)
    assert refusals(play(broker, ask("next"), now=now + 120)) == [("next", "model_unavailable")]
    assert play(broker, ask("probe2"), now=now + 121.1)[-1] == Spawn("a#7", "a")
    play(broker, ready("a#7"), now=now + 122)
    assert status(broker, now + 122).models[0].state == "hot"


def test_failed_loads_of_long_ago_do_not_open_the_breaker() -> None:
    loads = LoadFailures()
    for number in range(10):
        assert not loads.record("a", "no", permanent=False, now=number * 200.0).broken


# ---------------------------------------------------------------- crash reports


def test_a_crash_report_has_no_text_of_a_request(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"), beat("a#1", 3, 1), crash("a#1"), now=1)
    [report] = status(broker, now=5).deaths
    assert (report.signal, report.exit_code, report.ago, report.memory) == ("SIGSEGV", None, 4, 1000)
    assert (report.phase, report.last_lines) == ("ready, decode", ["Fatal Python error"])
    [shape] = report.in_flight
    assert (shape.request_id, shape.prompt, shape.size) == ("r1", "text", 2)


def test_the_crash_report_of_a_stalled_worker_says_what_it_ran_and_how_it_ended(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"), beat("a#1", 5, 1))
    play(broker, ApiSaid(API, Ping()), beat("a#1", 5, 1), now=31)
    play(broker, Tick(), crash("a#1", -signal.SIGABRT), now=31)
    [report] = status(broker, 31).deaths
    assert report.how == "made no step for 31 s"
    assert (report.signal, len(report.in_flight)) == ("SIGABRT", 1)


def test_a_worker_that_only_prepares_has_not_stalled_and_one_that_also_runs_may_have(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"), beat("a#1", 5, 1, preparing=1))
    play(broker, ApiSaid(API, Ping()), beat("a#1", 5, 2, preparing=2), Tick(), now=45)
    assert status(broker, 45).deaths == []
    play(broker, beat("a#1", 5, 2, preparing=1), now=46)
    play(broker, ApiSaid(API, Ping()), beat("a#1", 5, 2, preparing=1), Tick(), now=77)
    play(broker, crash("a#1", -signal.SIGABRT), now=77)
    assert [report.how for report in status(broker, 77).deaths] == ["made no step for 31 s"]


def test_the_last_twenty_crash_reports_are_kept_and_an_orderly_exit_makes_none() -> None:
    broker = make_broker()
    for number in range(1, 26):
        play(broker, ready(f"a-{number}"), PeerGone(f"a-{number}"), now=number)
    reports = status(broker, 30).deaths
    assert [report.worker for report in reports] == [f"a-{number}" for number in range(25, 5, -1)]
    play(broker, ask("r1"), ready("a#1"), WorkerExited("a#1", 0), now=30)
    assert status(broker, 30).deaths == reports


def test_a_suspect_that_runs_alone_is_run_in_full(broker: Broker) -> None:
    crashes(broker, "bad", times=2)
    play(broker, again("bad"))
    assert play(broker, ready("a#3")) == [run("a#3", "bad", attempt=3)]
