"""What an API key may have at a time and use in a minute, over all api processes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core import Broker
from broker.events import Action, ApiSaid, Event, PeerGone, Tick, WorkerExited, WorkerSaid
from broker.requests.scheduler import Limits
from shared.protocol import Ack, Cancel, Done, Failed, Failure, KeyTerms, KeyUsage, Ping, Refused, Spent
from tests.broker.plays import (
    API,
    ask,
    beat,
    cancel,
    forward,
    make_broker,
    play,
    ready,
    refusals,
    said,
    status,
)

TWO = KeyTerms(name="anna", concurrency=2)
SIXTY = KeyTerms(name="anna", tokens_per_minute=60)
LIMITED = "rate_limit_exceeded"


@pytest.fixture
def broker() -> Broker:
    broker = make_broker(limits=Limits(max_in_flight=8))
    play(broker, ready("a#1"))
    return broker


def done(request_id: str, spent: Spent | None = None, api: str = API) -> ApiSaid:
    return ApiSaid(api, Done(request_id=request_id, spent=spent))


def usage(broker: Broker, now: float = 0.0) -> KeyUsage:
    [found] = status(broker, now).keys
    return found


def retry_after(actions: list[Action]) -> int | None:
    [refused] = [message for message in said(actions) if isinstance(message, Refused)]
    assert refused.failure.status == 429
    return refused.failure.retry_after


def test_a_keys_concurrency_holds_over_all_api_processes(broker: Broker) -> None:
    play(broker, ask("r1", key=TWO), ask("r2", key=TWO, api="api-2"))
    refused = play(broker, ask("r3", key=TWO))
    assert refusals(refused) == [("r3", LIMITED)]
    assert (retry_after(refused) or 0) >= 1
    assert usage(broker) == KeyUsage(name="anna", open=2, requests=2, refused=1)


def test_another_key_is_not_refused_for_it(broker: Broker) -> None:
    play(broker, ask("r1", key=TWO), ask("r2", key=TWO))
    assert refusals(play(broker, ask("r3", key=KeyTerms(name="ben", concurrency=1)))) == []


def test_requests_that_wait_for_a_load_count_too() -> None:
    broker = make_broker()
    assert refusals(play(broker, ask("r1", key=TWO), ask("r2", key=TWO), ask("r3", key=TWO))) == [
        ("r3", LIMITED)
    ]


@pytest.mark.parametrize(
    "end",
    [
        [forward("a#1", "r1"), done("r1")],
        [cancel("r1")],
        [
            WorkerSaid(
                "a#1",
                Failed(request_id="r1", attempt=1, failure=Failure(status=400, code="c", message="m")),
            )
        ],
        [PeerGone(API)],
    ],
    ids=["done", "cancelled", "failed", "its api is gone"],
)
def test_a_place_is_free_again_however_a_request_ends(broker: Broker, end: list[Event]) -> None:
    play(broker, ask("r1", key=TWO), ask("r2", key=TWO, api="api-2"), *end)
    assert refusals(play(broker, ask("r3", key=TWO, api="api-2"))) == []


def test_a_request_that_its_api_gave_up_unheard_holds_no_place_for_ever(broker: Broker) -> None:
    play(broker, ask("r1", key=TWO), ask("r2", key=TWO), forward("a#1", "r1", "r2"))
    now = 0.0
    while usage(broker, now).open and now < 60:
        now += 4
        play(broker, ask(f"other-{now}", api="api-1"), Tick(), now=now)
    assert usage(broker, now).open == 0


def test_a_request_that_runs_for_long_keeps_its_place(broker: Broker) -> None:
    play(broker, ask("r1", key=TWO), ask("r2", key=TWO))
    for now in range(0, 60, 4):
        play(broker, beat("a#1"), ApiSaid(API, Ping()), Tick(), now=now)
    assert usage(broker, now).open == 2


def test_the_prompts_of_one_list_are_one_request(broker: Broker) -> None:
    one = KeyTerms(name="anna", concurrency=1)
    prompts = [ask(f"p{i}", key=one, group="list") for i in range(5)]
    assert [refusals(play(broker, each)) for each in prompts] == [[]] * 5
    others = [play(broker, ask(f"q{i}", key=one, group="another")) for i in range(2)]
    assert [refusals(each) for each in others] == [[("q0", LIMITED)], [("q1", LIMITED)]]
    assert usage(broker) == KeyUsage(name="anna", open=1, requests=1, refused=1)


def test_a_resubmitted_request_is_never_refused_and_never_counted_twice(broker: Broker) -> None:
    play(broker, ask("r1", key=TWO), ask("r2", key=TWO))
    play(broker, WorkerExited("a#1", -9))
    again = play(broker, ask("r1", key=TWO, attempt=2), ask("r2", key=TWO, attempt=2), ready("a#2"))
    assert refusals(again) == []
    assert usage(broker) == KeyUsage(name="anna", open=2, requests=2)


def test_a_new_broker_refuses_no_request_that_resumes(broker: Broker) -> None:
    one = KeyTerms(name="anna", concurrency=1, tokens_per_minute=1)
    play(broker, ask("r1", key=one, attempt=2))
    assert refusals(play(broker, ask("r2", key=one, attempt=3))) == []
    assert refusals(play(broker, ask("r3", key=one))) == [("r3", LIMITED)]
    assert usage(broker) == KeyUsage(name="anna", open=2, requests=0, refused=1)


def test_a_debt_of_tokens_refuses_new_requests_until_it_is_paid_back(broker: Broker) -> None:
    play(broker, ask("r1", key=SIXTY))
    play(broker, ApiSaid(API, Ack(request_id="r1", choice=0, next_index=8, spent=Spent(prompt=80, out=8))))
    refused = play(broker, ask("r2", key=SIXTY))
    assert refusals(refused) == [("r2", LIMITED)]
    wait = retry_after(refused)
    assert wait == 29  # 88 used of 60, and one comes back a second
    assert refusals(play(broker, ask("r3", key=SIXTY), now=28.0)) == [("r3", LIMITED)]
    assert refusals(play(broker, ask("r4", key=SIXTY), now=29.0)) == []


def test_a_budget_does_not_grow_beyond_its_minute(broker: Broker) -> None:
    play(broker, ask("r1", key=SIXTY))
    play(broker, done("r1", Spent(prompt=30, cached=20, out=31)), now=1000.0)
    assert refusals(play(broker, ask("r2", key=SIXTY), now=1000.0)) == [("r2", LIMITED)]
    assert usage(broker, 1000.0) == KeyUsage(
        name="anna", requests=1, refused=1, prompt=30, cached=20, out=31, owed=1
    )


def test_new_limits_of_a_key_hold_from_its_next_request_on(broker: Broker) -> None:
    play(broker, ask("r1", key=KeyTerms(name="anna")))
    play(broker, done("r1", Spent(prompt=500, out=500)))
    assert refusals(play(broker, ask("r2", key=SIXTY))) == []


def test_a_debt_outlasts_a_change_of_the_limits_and_an_unused_budget_is_none(broker: Broker) -> None:
    play(broker, ask("r1", key=SIXTY))
    assert usage(broker).owed == 0
    play(broker, done("r1", Spent(prompt=200)))
    more = KeyTerms(name="anna", tokens_per_minute=100)
    assert refusals(play(broker, ask("r2", key=more))) == [("r2", LIMITED)]
    assert usage(broker).owed == 100  # 200 are used of a hundred


def test_what_a_key_has_used_of_its_budget_outlasts_any_change_of_it(broker: Broker) -> None:
    """Else a key whose limits are changed and changed back could use each minute's tokens twice."""
    play(broker, ask("r1", key=SIXTY))
    play(broker, done("r1", Spent(prompt=50)))
    for number, budget in enumerate((0, 600, 0, 61, 60)):
        terms = KeyTerms(name="anna", tokens_per_minute=budget)
        play(broker, ask(f"c{number}", key=terms), done(f"c{number}"))
    play(broker, ask("r2", key=SIXTY))
    play(broker, done("r2", Spent(prompt=10)))
    assert refusals(play(broker, ask("r3", key=SIXTY))) == [("r3", LIMITED)]


def test_time_pays_back_what_a_key_has_used_also_while_it_has_no_budget(broker: Broker) -> None:
    play(broker, ask("r1", key=SIXTY))
    play(broker, done("r1", Spent(prompt=120)))
    play(broker, ask("r2", key=KeyTerms(name="anna")), done("r2"))
    assert refusals(play(broker, ask("r3", key=SIXTY), now=61.0)) == []


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["ask", "again", "done", "cancel"])), max_size=40)
)
def test_what_is_open_is_what_was_let_in_and_has_not_ended(steps: list[tuple[int, str]]) -> None:
    broker = make_broker(limits=Limits(max_in_flight=8))
    play(broker, ready("static", "a"))
    attempts: dict[str, int] = {}
    count = 0
    for which, step in steps:
        ids = sorted(attempts)
        request_id = ids[which % len(ids)] if ids else ""
        if step == "ask":
            count += 1
            refused = refusals(play(broker, ask(f"r{count}", key=TWO)))
            assert bool(refused) == (len(attempts) >= 2)
            if not refused:
                attempts[f"r{count}"] = 1
        elif ids and step == "again":
            attempts[request_id] += 1
            assert refusals(play(broker, ask(request_id, key=TWO, attempt=attempts[request_id]))) == []
        elif ids and step in ("done", "cancel"):
            word = Done(request_id=request_id) if step == "done" else Cancel(request_id=request_id)
            play(broker, ApiSaid(API, word))
            del attempts[request_id]
        assert sum(key.open for key in status(broker).keys) == len(attempts)
