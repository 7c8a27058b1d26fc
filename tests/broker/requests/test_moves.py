"""Requests that wait within one worker go to another that has room: which, how many, and no more than once."""

import pytest

from broker.core import Broker
from broker.events import Action, ApiSaid, TellApi, TellWorker, Tick, WorkerSaid
from broker.requests.moves import LONG, SETTLES
from broker.requests.scheduler import Limits
from shared.protocol import Ack, Cancel, Heartbeat, Ping, Resubmit
from tests.broker.plays import API, ask, make_broker, play, ready, run

ROOMY = Limits(max_in_flight=20, queue_per_model=50, queue_total=50, queue_age=100)


def beat(worker: str, waited: float) -> WorkerSaid:
    return WorkerSaid(worker, Heartbeat(epoch="e1", step=1, active=0, engine={"waited": waited}))


def at(broker: Broker, now: float, one: float = 0.0, other: float = 0.0) -> list[Action]:
    """What comes of a tick, when prompts have waited for so long in each worker."""
    return play(broker, ApiSaid(API, Ping()), beat("one", one), beat("other", other), Tick(), now=now)


def moved(actions: list[Action]) -> list[str]:
    """Cancelled at their worker, and to be submitted again: not one without the other."""
    words = [a.message for a in actions if isinstance(a, TellWorker) and isinstance(a.message, Cancel)]
    again = [a.message for a in actions if isinstance(a, TellApi) and isinstance(a.message, Resubmit)]
    assert [word.request_id for word in words] == [word.request_id for word in again]
    assert all(word.blameless for word in again)
    return [word.request_id for word in again]


@pytest.fixture
def late() -> Broker:
    """Six requests run in one worker when another comes."""
    broker = make_broker(limits=ROOMY)
    play(broker, ready("one", "a"))
    for number in range(6):
        play(broker, ask(f"r{number}"), now=number / 10)
    play(broker, ready("other", "a"), now=1.0)
    return broker


def test_the_newest_half_goes_to_a_worker_that_has_nothing_to_do(late: Broker) -> None:
    assert moved(at(late, 2.0, one=LONG - 0.1)) == []
    assert moved(at(late, 3.0, one=LONG)) == ["r3", "r4", "r5"]
    assert run("other", "r5", attempt=2) in play(late, ask("r5", attempt=2), now=3.1)


def test_what_has_a_token_stays(late: Broker) -> None:
    for number in (0, 1, 2, 3, 5):
        play(late, ApiSaid(API, Ack(request_id=f"r{number}", choice=0, next_index=1)), now=2.0)
    assert moved(at(late, 3.0, one=LONG)) == ["r4"]


def test_nothing_moves_where_prompts_wait_everywhere_or_loads_are_alike(late: Broker) -> None:
    assert moved(at(late, 3.0, one=LONG, other=LONG)) == []
    for number in range(6, 11):
        play(late, ask(f"r{number}"), now=3.0)
    assert moved(at(late, 3.5, one=LONG)) == []


def test_a_request_moves_once_and_a_worker_is_heard_again_before_more_do(late: Broker) -> None:
    assert moved(at(late, 3.0, one=LONG)) == ["r3", "r4", "r5"]
    assert moved(at(late, 3.0 + SETTLES - 0.1, one=LONG)) == []
    for number in (3, 4, 5):
        play(late, ask(f"r{number}", attempt=2), now=6.5)
    for number in range(6, 16):
        play(late, ask(f"r{number}"), now=6.6)
    assert not {"r3", "r4", "r5"} & set(moved(at(late, 7.0, other=LONG)))
