"""The preparation pool: turns, deadlines, and libraries that raise any exception."""

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from shared.errors import InvalidRequest
from shared.protocol import Failure, Run
from tests.jobs import job, run, sent
from workers.job import Job, Runnable
from workers.request.preparation import LONG, LONG_AT_ONCE, THREADS, PreparationPool, Task, outcome_of

Answers = SimpleQueue[tuple[str, Runnable | Failure]]


class Gate:
    """A preparation that starts, and ends when the test releases it."""

    def __init__(self) -> None:
        self.begun: SimpleQueue[str] = SimpleQueue()
        self.open = threading.Event()

    def __call__(self, run: Run) -> Job:
        self.begun.put(run.submit.request_id)
        if run.submit.request_id.startswith("held"):
            assert self.open.wait(30)
        return job(run.submit.request_id)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def preparing(prepare: Callable[[Run], Job], limit: float = 30.0) -> tuple[PreparationPool, Answers]:
    answers: Answers = SimpleQueue()
    return PreparationPool(
        prepare, lambda header, outcome: answers.put((header.submit.request_id, outcome)), limit
    ), answers


def test_a_short_request_is_prepared_while_as_many_long_ones_as_there_may_be_are_under_way(
    gate: Gate,
) -> None:
    subject, answers = preparing(gate)
    for i in range(THREADS + 1):
        subject.submit(*sent(run(f"held-{i}", "x" * LONG)))
    assert {gate.begun.get(timeout=60) for _ in range(LONG_AT_ONCE)} == {"held-0", "held-1"}
    subject.submit(*sent(run("short")))
    assert answers.get(timeout=60)[0] == "short"
    gate.open.set()
    assert {answers.get(timeout=60)[0] for _ in range(THREADS + 1)} == {
        f"held-{i}" for i in range(THREADS + 1)
    }


def test_a_long_request_is_prepared_however_many_short_ones_wait(gate: Gate) -> None:
    subject, answers = preparing(gate)
    for i in range(THREADS):
        subject.submit(*sent(run(f"held-{i}")))
    for _ in range(THREADS):
        gate.begun.get(timeout=60)
    for i in range(100):
        subject.submit(*sent(run(f"short-{i}")))
    subject.submit(*sent(run("long", "x" * LONG)))
    gate.open.set()
    order = [answers.get(timeout=60)[0] for _ in range(THREADS + 101)]
    assert "long" in order[: 2 * THREADS]


def test_a_queued_preparation_can_be_withdrawn_and_is_not_answered(gate: Gate) -> None:
    subject, answers = preparing(gate)
    for i in range(THREADS):
        subject.submit(*sent(run(f"held-{i}")))
    for _ in range(THREADS):
        gate.begun.get(timeout=60)
    subject.submit(*sent(run("left")))
    subject.submit(*sent(run("stays")))
    assert subject.withdraw("left") and not subject.withdraw("left") and not subject.withdraw("held-0")
    gate.open.set()
    assert "left" not in {answers.get(timeout=60)[0] for _ in range(THREADS + 1)}


def test_a_preparation_that_never_ends_is_given_up_and_its_thread_replaced() -> None:
    begun: SimpleQueue[str] = SimpleQueue()

    def prepare(run: Run) -> Job:
        if run.submit.request_id.startswith("endless"):
            begun.put(run.submit.request_id)
            while True:
                try:
                    sum(range(1000))
                except Exception:  # noqa: BLE001 - as a library does that goes on whatever happens
                    pass
        return job(run.submit.request_id)

    subject, answers = preparing(prepare, limit=5.0)
    for i in range(THREADS):
        subject.submit(*sent(run(f"endless-{i}")))
    for _ in range(THREADS):
        begun.get(timeout=60)
    assert subject.give_up_overdue(time.monotonic()) == []
    given_up = subject.give_up_overdue(time.monotonic() + 6)
    assert {header.submit.request_id for header, _ in given_up} == {f"endless-{i}" for i in range(THREADS)}
    subject.submit(*sent(run("other")))
    assert answers.get(timeout=60)[0] == "other"
    deadline = time.monotonic() + 60
    while subject.stuck and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert subject.stuck == 0 and answers.empty()


def test_a_preparation_that_ends_after_being_given_up_is_not_answered_and_was_stuck_until_then(
    gate: Gate,
) -> None:
    subject, answers = preparing(gate, limit=5.0)
    subject.submit(*sent(run("held")))
    gate.begun.get(timeout=60)
    ((given_up, failure),) = subject.give_up_overdue(time.monotonic() + 6)
    assert given_up.submit.request_id == "held" and subject.stuck == 1
    assert (failure.status, failure.param) == (400, "prompt")
    gate.open.set()
    subject.submit(*sent(run("next")))
    assert answers.get(timeout=60)[0] == "next" and answers.empty()


def test_time_in_which_the_process_was_suspended_extends_the_deadlines(gate: Gate) -> None:
    subject, _ = preparing(gate, limit=5.0)
    subject.submit(*sent(run("held")))
    gate.begun.get(timeout=60)
    subject.forgive(60)
    assert subject.give_up_overdue(time.monotonic() + 60) == []


def panic(run: Run) -> Job:
    """Onigmo gives up on this expression and Rust panics, which is no Exception in Python."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a|a?)+$"), "isolated")
    tokenizer.encode("a" * 60 + "b")
    return job()  # it did not panic


def recurse(run: Run) -> Job:
    return recurse(run)


def exhaust(run: Run) -> Job:
    return job(prompt=[0] * (sys.maxsize // 8))


def leave(run: Run) -> Job:
    raise SystemExit


@pytest.mark.parametrize("prepare", [panic, recurse, exhaust, leave])
def test_any_exception_of_a_preparation_fails_its_request_and_no_thread(
    prepare: Callable[[Run], Job],
) -> None:
    subject, answers = preparing(prepare)
    for i in range(2 * THREADS):
        subject.submit(*sent(run(f"r{i}")))
    failures = [answers.get(timeout=60)[1] for _ in range(2 * THREADS)]
    assert all(isinstance(failure, Failure) and failure.status == 500 for failure in failures)


def test_a_refusal_is_answered_and_the_message_of_a_bug_stays_out_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = "what the client wrote"

    def refuse(run: Run) -> Job:
        raise InvalidRequest("no", param="prompt")

    def fail(run: Run) -> Job:
        raise KeyError(words)

    refused = outcome_of(refuse, Task(*sent(run())))
    assert isinstance(refused, Failure) and (refused.status, refused.param) == (400, "prompt")
    assert isinstance(outcome_of(fail, Task(*sent(run()))), Failure)
    assert re.search("could not be prepared: .*KeyError", caplog.text)
    assert words not in caplog.text


@given(st.binary(max_size=200))
def test_a_body_that_cannot_be_decoded_fails_its_request_with_a_sentence(body: bytes) -> None:
    header, _ = sent(run())
    outcome = outcome_of(lambda run: job(), Task(header, body))
    assert isinstance(outcome, Failure) and outcome.status == 500 and "decode" in outcome.message
