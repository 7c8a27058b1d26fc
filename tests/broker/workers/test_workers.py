"""What becomes of a worker, of the requests that it ran, and of those that waited for it."""

import re
import signal

import pytest

from broker.core import Broker
from broker.events import (
    Abort,
    ApiSaid,
    Event,
    Exit,
    Kill,
    Leave,
    PassOn,
    PeerGone,
    Spawn,
    SpawnFailed,
    StopAll,
    TellApi,
    TellWorker,
    Terminate,
    Tick,
    WorkerExited,
    WorkerSaid,
)
from broker.models.load_failures import backoff
from broker.reports import event_log
from shared.errors import Draining
from shared.protocol import Bye, Drain, Failed, Goodbye, LoadFailed, Ping, Pong, Resubmit
from tests.broker.plays import (
    API,
    ask,
    beat,
    forward,
    load_failed,
    loading,
    make_broker,
    notes,
    play,
    ready,
    reason,
    refusals,
    run,
    status,
)


@pytest.fixture
def broker() -> Broker:
    return make_broker()


@pytest.fixture
def busy(broker: Broker) -> Broker:
    """Its worker a#1 runs r1 and r2, and r3 waits."""
    play(broker, ask("r1"), ask("r2"), ready("a#1"), ask("r3"))
    return broker


def resubmit(request_id: str, how: str, attempt: int = 1, blameless: bool = False) -> TellApi:
    word = Resubmit(request_id=request_id, attempt=attempt, reason=f"its worker {how}", blameless=blameless)
    return TellApi(API, word)


def goodbye(worker: str, reason: str) -> TellWorker:
    return TellWorker(worker, Goodbye(reason=reason))


KILLED = "was killed by SIGKILL; the log of a#1 says more"


# ---------------------------------------------------------------- the end of a worker that serves


def test_requests_of_a_worker_that_died_are_to_come_again_and_another_is_spawned(busy: Broker) -> None:
    assert play(busy, WorkerExited("a#1", -9)) == [
        resubmit("r1", KILLED),
        resubmit("r2", KILLED),
        Spawn("a#2", "a"),
    ]


def test_resubmitted_requests_run_before_those_that_waited(busy: Broker) -> None:
    play(busy, WorkerExited("a#1", -9), ask("r1", attempt=2), ask("r2", attempt=2))
    assert play(busy, ready("a#2")) == [run("a#2", "r1", attempt=2), run("a#2", "r2", attempt=2)]


def test_a_request_that_lost_three_workers_without_a_token_is_refused(broker: Broker) -> None:
    play(broker, ask("r1", attempt=3, losses=2), ready("a#1"))
    assert refusals(play(broker, WorkerExited("a#1", -11))) == []
    assert refusals(play(broker, ask("r1", attempt=4, losses=3))) == [("r1", "worker_lost")]


def test_silent_worker_is_killed_once_and_its_requests_do_not_wait_for_its_end(busy: Broker) -> None:
    play(busy, ApiSaid(API, Ping()), now=5)
    assert play(busy, Tick(), now=5.1) == [
        resubmit("r1", "was silent for 5 s"),
        resubmit("r2", "was silent for 5 s"),
        Kill("a#1"),
    ]
    assert status(busy).in_flight == 0
    assert play(busy, Tick(), now=5.2) == []
    assert play(busy, WorkerExited("a#1", -9), now=5.3) == [Spawn("a#2", "a")]


def test_any_message_of_a_worker_proves_that_it_lives(busy: Broker) -> None:
    play(busy, ApiSaid(API, Ping()), now=9)
    assert play(busy, forward("a#1"), Tick(), now=4.9) == []
    assert play(busy, Tick(), now=9.8) == []


def test_a_worker_that_does_not_end_is_killed_again(busy: Broker) -> None:
    play(busy, ApiSaid(API, Ping()), now=11)
    play(busy, Tick(), now=6)
    assert play(busy, Tick(), now=12) == [Kill("a#1")]


def test_messages_of_a_worker_that_was_given_up_are_dropped(busy: Broker) -> None:
    play(busy, Tick(), now=5.1)
    for word in (forward("a#1", "r1"), ready("a#1"), load_failed("a#1", permanent=True)):
        assert play(busy, word, now=5.2) == []
    play(busy, WorkerExited("a#1", -9), now=5.3)
    assert play(busy, WorkerSaid("a#1", Bye(reason="late")), now=5.4) == []


def test_a_removed_worker_that_wakes_up_is_sent_away(broker: Broker) -> None:
    play(broker, ready("static", "a"), Tick(), now=0)
    assert play(broker, Tick(), now=6) == []
    for word in (beat("static"), ready("static", "a")):
        [told] = play(broker, word, now=7)
        assert told == goodbye("static", "given up: it was silent or could not be reached")


def test_unreachable_worker_of_ours_is_killed_and_answered_for_when_it_has_ended(busy: Broker) -> None:
    assert play(busy, PeerGone("a#1")) == [Kill("a#1")]
    assert play(busy, forward("a#1", "r2")) == [PassOn(API)]
    [answer, _] = play(busy, WorkerExited("a#1", -signal.SIGABRT))
    assert isinstance(answer, TellApi) and isinstance(answer.message, Resubmit)
    assert answer.message.request_id == "r1" and "SIGABRT" in answer.message.reason


def test_an_unreachable_worker_that_is_not_our_child_is_lost_at_once(broker: Broker) -> None:
    play(broker, ready("static", "a"), ask("r1"))
    assert play(broker, PeerGone("static"))[0] == resubmit("r1", "lost its connection")


def test_a_busy_worker_that_is_not_our_child_and_says_nothing_is_written_to(broker: Broker) -> None:
    play(broker, ready("static", "a"), now=0)
    assert play(broker, Tick(), now=1) == [], "idle"
    play(broker, ask("r1"), beat("static"), now=2)
    assert play(broker, Tick(), now=2.2) == []
    assert play(broker, Tick(), now=2.3) == [TellWorker("static", Pong(epoch="e1"))]


def test_worker_that_leaves_hands_its_requests_over(busy: Broker) -> None:
    actions = play(busy, WorkerSaid("a#1", Bye(reason="told to")))
    assert actions == [resubmit(id, "left: told to", blameless=True) for id in ("r1", "r2")]
    assert play(busy, WorkerExited("a#1", 0)) == [Spawn("a#2", "a")]


def test_worker_that_refuses_because_it_leaves_gets_nothing_more(busy: Broker) -> None:
    leaving = Failed(request_id="r1", attempt=1, failure=Draining("I leave").to_failure())
    assert play(busy, WorkerSaid("a#1", leaving)) == [resubmit("r1", "is leaving", blameless=True)]
    assert play(busy, forward("a#1", "r2"), ask("r1", attempt=2)) == []
    assert play(busy, WorkerSaid("a#1", Bye(reason="done")), WorkerExited("a#1", 0)) == [Spawn("a#2", "a")]


def test_the_end_of_an_idle_worker_starts_no_other(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"), forward("a#1", "r1"))
    assert play(broker, WorkerExited("a#1", -9)) == []
    assert status(broker).models[0].state == "loadable"


def test_details_of_a_model_are_known_when_its_worker_is_gone(broker: Broker) -> None:
    assert status(broker).models[0].context_length is None
    play(broker, ask("r1"), ready("a#1"), forward("a#1", "r1"), WorkerExited("a#1", -9))
    assert status(broker).models[0].context_length == 4096


# ---------------------------------------------------------------- loads that fail


def test_an_exit_before_ready_refuses_what_waits_and_says_how_it_ended(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"), ask("other", model="b"))
    actions = play(broker, WorkerExited("a#1", 3))
    assert refusals(actions) == [("r1", "model_unavailable"), ("r2", "model_unavailable")]
    assert "exited with code 3 before it was ready; the log of a#1 says more" in str(actions[0])


def test_a_load_that_is_killed_from_outside_is_tried_four_times_more_before_a_refusal(
    broker: Broker,
) -> None:
    play(broker, ask("r1"), ask("r2", attempt=2), loading("a#1"))
    assert play(broker, WorkerExited("a#1", -9)) == [Spawn("a#2", "a")]
    for number, delay in enumerate((1, 2, 4), start=2):
        assert play(broker, WorkerExited(f"a#{number}", -9), now=10 * number) == []
        play(broker, ApiSaid(API, Ping()), now=10 * number)
        assert play(broker, Tick(), now=10 * number + delay) == [Spawn(f"a#{number + 1}", "a")]
    refused = refusals(play(broker, WorkerExited("a#5", -9), now=50))
    assert refused == [("r2", "model_unavailable"), ("r1", "model_unavailable")]


def test_permanent_failure_refuses_for_ten_seconds_with_the_same_reason(broker: Broker) -> None:
    play(broker, ask("r1"), loading("a#1"))
    assert "no such file" in reason(play(broker, load_failed("a#1", permanent=True)))
    play(broker, WorkerExited("a#1", 1))
    assert "no such file" in reason(play(broker, ask("r2"), now=9.9))
    assert play(broker, ask("r3"), now=10)[-1] == Spawn("a#2", "a")


def test_a_worker_that_comes_by_itself_is_awaited_whatever_failed_before(broker: Broker) -> None:
    play(broker, ask("r1"), load_failed("a#1", permanent=True), WorkerExited("a#1", 1))
    play(broker, loading("static", model="a"))
    assert refusals(play(broker, ask("r2"))) == []
    assert play(broker, ready("static", "a")) == [run("static", "r2")]


def test_failed_model_says_so_until_a_load_works(broker: Broker) -> None:
    play(broker, ask("r1"), load_failed("a#1", permanent=True), WorkerExited("a#1", 1))
    assert (status(broker).models[0].state, status(broker).models[0].reason) == ("failed", "no such file")
    play(broker, ask("r2"), now=10)
    assert status(broker, now=10).models[0].state == "loading"
    play(broker, ready("a#2"), now=11)
    assert (status(broker).models[0].state, status(broker).models[0].reason) == ("hot", None)


def test_failed_loads_that_are_not_permanent_are_tried_again_ever_later(broker: Broker) -> None:
    play(broker, ask("r1"), WorkerExited("a#1", 1))
    assert play(broker, ask("r2"))[-1] == Spawn("a#2", "a")
    play(broker, WorkerExited("a#2", 1))
    assert refusals(play(broker, ask("r3"), now=0.9)) == []
    assert play(broker, Tick(), now=1.0) == [Spawn("a#3", "a")]


def test_backoff_doubles_up_to_a_minute() -> None:
    assert [backoff(count) for count in range(1, 10)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]


def test_command_that_cannot_be_started_is_a_failed_load(broker: Broker) -> None:
    play(broker, ask("r1"))
    actions = play(broker, SpawnFailed("a#1", "No such file: 'mlx'"))
    assert refusals(actions) == [("r1", "model_unavailable")]
    assert "could not be started: No such file: 'mlx'" in reason(actions)


@pytest.mark.parametrize("heard", [False, True])
def test_load_without_progress_is_given_up(broker: Broker, heard: bool) -> None:
    play(broker, ask("r1"), *([loading("a#1")] if heard else []))
    play(broker, *([loading("a#1"), beat("a#1")] if heard else []), ApiSaid(API, Ping()), now=29)
    actions = play(broker, Tick(), now=31)
    assert refusals(actions) == [("r1", "model_unavailable")]
    assert actions[-1] == Abort("a#1")


def test_load_that_gets_further_may_take_its_time(broker: Broker) -> None:
    play(broker, ask("r1"))
    for now in (20, 40, 60):
        play(broker, loading("a#1", done=now), ApiSaid(API, Ping()), now=now)
        assert play(broker, Tick(), now=now) == []


def test_a_failed_replica_refuses_nothing_while_another_serves(broker: Broker) -> None:
    play(broker, ready("static", "a"), loading("late", model="a"), ask("r1"), ask("r2"), ask("r3"))
    assert play(broker, load_failed("late", permanent=True)) == []
    assert status(broker).models[0].state == "hot"


# ---------------------------------------------------------------- strangers


def test_a_worker_that_the_broker_did_not_spawn_is_used_like_any_other(broker: Broker) -> None:
    play(broker, loading("static", model="a"))
    assert run("static", "r1") not in play(broker, ask("r1"))
    assert play(broker, ready("static", "a")) == [run("static", "r1")]
    assert not status(broker).workers[0].spawned


def test_a_worker_that_the_broker_did_not_spawn_is_never_signalled(broker: Broker) -> None:
    play(broker, ready("static", "a"), ask("r1"))
    assert play(broker, Tick(), now=6)[0] == resubmit("r1", "was silent for 5 s")
    assert status(broker).workers == []


@pytest.mark.parametrize(
    ("word", "why"),
    [
        (loading("w", model="a", token="guess"), "wrong token"),
        (loading("w", model="z"), "the model 'z' is not served here"),
        (ready("w", "z"), "the model 'z' is not served here"),
    ],
)
def test_a_worker_that_may_not_serve_is_sent_away(broker: Broker, word: WorkerSaid, why: str) -> None:
    assert play(broker, word) == [goodbye("w", why)]
    assert status(broker).workers == []


def test_worker_that_loads_another_model_than_it_was_spawned_for_is_sent_away(broker: Broker) -> None:
    assert play(broker, ask("r1"), ready("a#1", "b")) == [
        goodbye("a#1", "'b' is not the model it was started for")
    ]


@pytest.mark.parametrize("word", [beat("old", epoch="e0"), forward("old", "r1")])
def test_worker_of_an_earlier_life_learns_the_epoch_and_registers_again(
    broker: Broker, word: WorkerSaid
) -> None:
    assert play(broker, word) == [TellWorker("old", Pong(epoch="e1"))]
    assert play(broker, ready("old", "a", held={"r1": 1})) == []
    assert play(broker, ask("r1", attempt=2))[-1] == run("old", "r1", attempt=2)


MESSAGES_OF_A_WORKER_THAT_MAY_NOT_SERVE = [
    ready("w", "z"),
    load_failed("w", permanent=True),
    WorkerSaid("w", Bye(reason="lies")),
]


@pytest.mark.parametrize("word", MESSAGES_OF_A_WORKER_THAT_MAY_NOT_SERVE)
def test_what_a_worker_that_may_not_serve_claims_is_not_logged(broker: Broker, word: WorkerSaid) -> None:
    assert notes(broker.handle(word, 0.0)) == []
    assert event_log.of_event(word, str) is None


def test_a_worker_is_logged_as_ready_when_it_is(broker: Broker) -> None:
    play(broker, ask("r1"))
    assert notes(broker.handle(ready("a#1", "a"), 0.0)) == ["a#1 is ready: 'a', pid 7, holds 0 requests"]
    assert notes(broker.handle(ready("static-1", "a"), 0.0)) == [
        "static-1 is ready: 'a', pid 7, holds 0 requests; static: its memory counts, and it is never evicted"
    ]


@pytest.mark.parametrize(
    "event",
    [
        WorkerExited("a#1", 3),
        SpawnFailed("a#1", "[Errno 2] No such file: '/opt/some dir/python'"),
        WorkerSaid("a#1", LoadFailed(reason="cannot read /home/me/models/x/config.json", permanent=True)),
    ],
)
def test_a_refusal_for_a_failed_load_names_no_path_of_this_machine(broker: Broker, event: Event) -> None:
    play(broker, ask("r1"))
    assert not re.search(r"/opt|/home|/log|some dir", reason(play(broker, event)))
    assert not re.search(r"/opt|/home|/log|some dir", str(status(broker).models))


def test_heartbeat_is_answered_with_the_epoch(broker: Broker) -> None:
    assert play(broker, ready("static", "a"), beat("static")) == [TellWorker("static", Pong(epoch="e1"))]


def test_a_worker_that_loads_for_long_hears_that_its_broker_lives(broker: Broker) -> None:
    play(broker, ask("r1"))
    assert play(broker, loading("a#1", done=1), now=50) == [TellWorker("a#1", Pong(epoch="e1"))]


def test_a_worker_is_told_how_many_have_something_to_do(busy: Broker) -> None:
    play(busy, ask("r4", model="b"), ready("b#2"))
    assert play(busy, beat("a#1")) == [TellWorker("a#1", Pong(epoch="e1", busy=2))]


# ---------------------------------------------------------------- leaving


def test_a_broker_that_leaves_ends_no_worker(busy: Broker) -> None:
    assert play(busy, Leave()) == [Exit()]


def test_a_stop_refuses_what_waits_and_drains_the_spawned_workers(busy: Broker) -> None:
    play(busy, ready("static", "b"))
    actions = play(busy, StopAll())
    assert refusals(actions) == [("r3", "draining")]
    assert actions[1:] == [TellWorker("a#1", Drain())]
    assert refusals(play(busy, ask("r4"))) == [("r4", "draining")]


def test_after_a_stop_what_runs_may_finish_and_the_broker_exits_last(busy: Broker) -> None:
    play(busy, StopAll())
    play(busy, forward("a#1", "r1"), forward("a#1", "r2"))
    assert play(busy, WorkerExited("a#1", 0)) == [Exit()]


def test_a_stop_without_spawned_workers_is_an_exit(broker: Broker) -> None:
    assert play(broker, ready("static", "a"), StopAll()) == [Exit()]


def test_worker_that_drains_too_long_is_killed(busy: Broker) -> None:
    play(busy, StopAll())
    play(busy, beat("a#1"), ApiSaid(API, Ping()), now=60)
    actions = play(busy, Tick(), now=61)
    assert refusals(actions) == [("r1", "draining"), ("r2", "draining")]
    assert actions[-1] == Kill("a#1")


def test_a_worker_that_is_leaving_already_is_left_to_finish(busy: Broker) -> None:
    play(
        busy, WorkerSaid("a#1", Failed(request_id="r1", attempt=1, failure=Draining("I leave").to_failure()))
    )
    assert [action for action in play(busy, StopAll()) if not isinstance(action, TellApi)] == []
    assert play(busy, forward("a#1", "r2")) == [PassOn(API)]
    assert play(busy, WorkerExited("a#1", 0)) == [Exit()]


def test_loading_worker_does_not_outlive_a_stop(broker: Broker) -> None:
    play(broker, ask("r1"))
    assert play(broker, StopAll())[-1] == Terminate("a#1")
    assert play(broker, Tick(), now=5.1) == [Kill("a#1")]


@pytest.mark.parametrize("second", [StopAll(), Leave()])
def test_a_second_stop_kills(busy: Broker, second: StopAll | Leave) -> None:
    play(busy, StopAll())
    assert play(busy, second) == [Kill("a#1"), Exit()]


# ---------------------------------------------------------------- status


def test_the_status_lists_models_and_workers_as_they_are(busy: Broker) -> None:
    play(busy, ask("x", model="b"), loading("b#2", done=5))
    report = status(busy, now=2)
    assert [(m.id, m.state, m.queued) for m in report.models] == [("a", "hot", 1), ("b", "loading", 1)]
    assert [(w.id, w.state, w.in_flight, w.done) for w in report.workers] == [
        ("a#1", "ready", 2, 0),
        ("b#2", "loading", 0, 5),
    ]
    assert (report.in_flight, report.queued, report.epoch, report.uptime) == (2, 2, "e1", 2)


def test_broker_with_work_is_not_idle(busy: Broker) -> None:
    assert not busy.idle


def test_broker_is_idle_when_time_brings_nothing(busy: Broker) -> None:
    play(busy, forward("a#1", "r1", "r2"), forward("a#1", "r3"))
    assert busy.idle
    assert play(busy, Tick()) == []
