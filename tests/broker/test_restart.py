"""A broker that leaves, stops or is killed: what becomes of its workers, and what the next broker does."""

import json
import os
import signal
from collections.abc import Callable

import psutil
import pytest

from shared.protocol import (
    Chunks,
    Ping,
    Refused,
    Resubmit,
)
from tests.broker.plays import submit
from tests.broker.stack import Stack, ended, until

Start = Callable[..., Stack]


# ---------------------------------------------------------------- leaving


@pytest.mark.slow
def test_sigterm_leaves_the_workers_running_and_they_are_served_by_the_next_broker(start: Start) -> None:
    stack = start()
    api = stack.api()
    api.generate("r1")
    stack.signal(signal.SIGTERM)
    assert stack.wait() == 0
    [worker] = stack.orphans
    assert not ended(worker)
    stack.start()
    api.say(Ping())
    until(lambda: api.model().state == "hot")
    assert [(w.pid, w.spawned) for w in api.status().workers] == [(worker.pid, True)]
    assert api.generate("r2")


def test_sigint_stops_the_broker_and_its_workers(start: Start) -> None:
    stack = start()
    api = stack.api()
    api.generate("r1")
    stack.signal(signal.SIGINT)
    assert stack.wait() == 0
    assert all(ended(worker) for worker in stack.orphans)


@pytest.mark.slow
def test_a_request_while_workers_end_is_refused_and_a_second_sigint_does_not_wait(start: Start) -> None:
    stack = start("--stubborn")
    api = stack.api()
    api.generate("r1")
    stack.signal(signal.SIGINT)
    until(lambda: "stopping" in stack.printed())
    api.say(submit("r2"))
    failure = api.hear(Refused).failure
    assert (failure.status, failure.code) == (503, "draining")
    stack.signal(signal.SIGINT)
    assert stack.wait() == 0
    until(lambda: all(ended(worker) for worker in stack.orphans))


@pytest.mark.slow
def test_worker_that_does_not_drain_in_time_is_killed(start: Start) -> None:
    stack = start("--stubborn", drain_timeout=0.5)
    stack.api().generate("r1")
    stack.signal(signal.SIGINT)
    assert stack.wait() == 0
    assert all(ended(worker) for worker in stack.orphans)


# ---------------------------------------------------------------- a broker that is killed


def test_the_workers_of_a_killed_broker_are_adopted_and_none_is_started_twice(start: Start) -> None:
    stack = start()
    api = stack.api()
    api.generate("r1")
    [worker] = stack.children()
    stack.process.kill()
    stack.process.wait()
    stack.start()
    api.say(submit("r2"))
    api.say(submit("r3", model="b"))
    api.hear(Chunks)
    assert worker.pid in {known.pid for known in api.status().workers if known.spawned}
    until(lambda: len(stack.children()) == 1)
    stack.signal(signal.SIGINT)
    assert stack.wait() == 0
    assert all(ended(process) for process in stack.orphans)


def test_the_death_of_an_adopted_worker_is_noticed_at_once(start: Start) -> None:
    stack = start(heartbeat_timeout=60)
    api = stack.api()
    api.generate("r1")
    [worker] = stack.children()
    stack.process.kill()
    stack.process.wait()
    stack.start()
    api.say(Ping())
    until(lambda: api.model().state == "hot")
    worker.send_signal(signal.SIGSTOP)
    api.say(submit("r2"))
    until(lambda: api.status().in_flight == 1)
    worker.kill()
    assert "nobody knows how" in api.hear(Resubmit).reason


@pytest.mark.slow
def test_a_state_file_that_is_torn_or_names_other_processes_does_no_harm(start: Start) -> None:
    stack = start()
    stack.api().generate("r1")
    state = stack.run_dir / "state.json"
    [entry] = json.loads(state.read_text())
    stack.process.kill()
    stack.process.wait()
    [worker] = stack.orphans or [psutil.Process(entry["pid"])]
    worker.kill()
    until(lambda: ended(worker))
    for number, text in enumerate(("{", json.dumps([entry]), json.dumps([{**entry, "pid": os.getpid()}]))):
        state.write_text(text)
        stack.start()
        assert stack.api(f"api-again-{number}").status().workers == []
        stack.process.kill()
        stack.process.wait()
