"""What the status tells of the last requests."""

import signal

import pytest

from broker.core import Broker
from broker.events import ApiSaid, PeerGone, WorkerExited, WorkerSaid
from broker.reports.recent_requests import REMEMBERED
from broker.requests.admission import MAX_LOSSES
from broker.startup import Timeouts
from shared.protocol import Done, Failed, Failure, LoadFailed, RecentRequest
from tests.broker.plays import API, ask, cancel, forward, make_broker, play, ready, status


@pytest.fixture
def broker() -> Broker:
    return make_broker(timeouts=Timeouts(silence=500, load=300))


def recent(broker: Broker) -> dict[str, RecentRequest]:
    return {one.request_id: one for one in status(broker).recent}


def test_a_request_has_its_times_and_its_tokens(broker: Broker) -> None:
    play(broker, ask("r1"), now=1.0)
    assert (recent(broker)["r1"].worker, recent(broker)["r1"].took) == ("", None)
    play(broker, ready("a#1"), now=3.0)
    assert (recent(broker)["r1"].waited, recent(broker)["r1"].ended) == (2.0, "")
    play(broker, forward("a#1", "r1"), now=7.5)
    play(broker, ApiSaid(API, Done(request_id="r1", tokens=12)), now=7.6)
    one = recent(broker)["r1"]
    assert (one.waited, one.took, one.ended, one.tokens) == (2.0, 4.5, "finished", 12)


def test_a_request_that_ended_otherwise_says_how(broker: Broker) -> None:
    play(broker, ready("a#1"), ask("r1"), ask("r2"), cancel("r1"))
    failure = Failure(status=400, code="context_length_exceeded", message="m")
    play(broker, WorkerSaid("a#1", Failed(request_id="r2", attempt=1, failure=failure)))
    assert [one.ended for one in recent(broker).values()] == ["context_length_exceeded", "cancelled"]


def test_a_resumed_request_is_one_record_with_the_reason(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"))
    play(broker, WorkerExited("a#1", -signal.SIGKILL), ask("r1", attempt=2), now=1.0)
    assert recent(broker)["r1"].worker == ""
    play(broker, ready("a#2"), now=2.0)
    one = recent(broker)["r1"]
    assert (one.worker, one.took, one.ended) == ("a#2", None, "")
    assert ["SIGKILL" in why for why in one.resumes] == [True]
    play(broker, forward("a#2", "r1", attempt=2), now=5.0)
    assert (recent(broker)["r1"].took, recent(broker)["r1"].ended) == (5.0, "finished")


def test_a_resumed_request_that_is_refused_has_ended(broker: Broker) -> None:
    play(broker, ask("r1"), ready("a#1"), WorkerExited("a#1", -signal.SIGKILL))
    play(broker, ask("r1", attempt=2, losses=MAX_LOSSES), now=1.0)
    one = recent(broker)["r1"]
    assert (one.ended, one.took) == ("worker_lost", 1.0)


def test_only_the_last_requests_are_remembered_the_latest_first(broker: Broker) -> None:
    play(broker, ready("a#1"))
    for number in range(REMEMBERED + 3):
        play(broker, ask(f"r{number}"), forward("a#1", f"r{number}"))
    found = [one.request_id for one in status(broker).recent]
    assert (len(found), found[0], found[-1]) == (REMEMBERED, f"r{REMEMBERED + 2}", "r3")


def test_a_request_that_never_ran_has_waited_until_its_end(broker: Broker) -> None:
    play(broker, ask("r1"), ask("r2"))
    play(broker, cancel("r1"), now=1.5)
    play(broker, WorkerSaid("a#1", LoadFailed(reason="no such file", permanent=True)), now=2.0)
    found = {id: (one.waited, one.took, one.ended) for id, one in recent(broker).items()}
    assert found == {"r1": (1.5, None, "cancelled"), "r2": (2.0, None, "model_unavailable")}


def test_the_requests_of_a_lost_api_are_cancelled(broker: Broker) -> None:
    play(broker, ready("a#1"), ask("r1"), ask("r2"), ask("r3"), ask("r4", api="api-2"), forward("a#1", "r1"))
    play(broker, PeerGone(API), now=4.0)
    ended = {id: one.ended for id, one in recent(broker).items()}
    assert ended == {"r1": "finished", "r2": "cancelled", "r3": "cancelled", "r4": ""}
