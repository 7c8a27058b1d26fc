"""What those who wait are told: their place in the queue, how far the load is, and when to come back."""

from broker.events import Action, ApiSaid, TellApi, Tick, WorkerExited, WorkerSaid
from shared.protocol import Loading, Ping, Waiting
from tests.broker.plays import API, TOKEN, ask, forward, make_broker, play, ready, said
from tests.broker.plays import status as report


def told(actions: list[Action]) -> list[tuple[str, Waiting]]:
    return [(a.api, a.message) for a in actions if isinstance(a, TellApi) and isinstance(a.message, Waiting)]


def reading(worker: str, done: int, total: int) -> WorkerSaid:
    word = Loading(token=TOKEN, model=worker[0], pid=7, phase="weights", done=done, total=total)
    return WorkerSaid(worker, word)


def test_those_who_wait_learn_their_place_and_how_far_the_load_is_once_a_second() -> None:
    broker = make_broker()
    play(broker, ask("r1"), ask("r2"), ask("r3", api="api-2"), reading("a#1", 30, 120))
    assert told(broker.handle(Tick(), 0.9)) == []
    common = {"model": "a", "state": "loading", "phase": "weights", "percent": 25, "total": 3}
    assert told(broker.handle(Tick(), 1.0)) == [
        (API, Waiting(positions={"r1": 1, "r2": 2}, **common)),
        ("api-2", Waiting(positions={"r3": 3}, **common)),
    ]
    assert told(broker.handle(Tick(), 1.1)) == []


def test_nobody_is_told_anything_of_requests_that_run() -> None:
    broker = make_broker()
    play(broker, ask("r1"), ready("a#1"))
    assert told(broker.handle(Tick(), 2.0)) == []


def test_a_full_queue_of_a_model_that_loads_says_when_its_load_should_be_over() -> None:
    broker = make_broker()
    play(broker, ask("r0"))
    play(broker, ready("a#1"), now=20.0)
    play(broker, forward("a#1", "r0"), WorkerExited("a#1", 0), now=20.0)
    play(broker, ApiSaid(API, Ping()), now=100.0)
    for number in range(1, 4):
        play(broker, ask(f"r{number}"), now=100.0)
    refused = [m for m in said(play(broker, ask("r4"), now=105.0)) if m.type == "refused"]
    [answer] = refused
    seconds = answer.failure.retry_after or 0
    assert 15 <= seconds <= 25
    assert report(broker, 105.0).queued == 3
