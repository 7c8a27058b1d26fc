"""Replicas of a model as real processes: they come with a queue, share what it asks, and lose no token."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.faults.client import Stream
from tests.faults.stack import FaultStack, all_right, fault_stack
from tests.soak.swaps import Watch

MB = 10**6


def rules(replicas: str, ttl: float = 0) -> dict[str, object]:
    """Room for two requests in a worker, so that the third waits for a worker."""
    tables = {name: {"source": "/none", "replicas": replicas} for name in "ab"}
    return {"models": json.dumps(tables), "available_models": "a,b", "max_in_flight": 2, "ttl": ttl}


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with fault_stack("--step", "0.02", **rules("1-2")) as stack:
        yield stack


def workers(stack: FaultStack) -> list[int]:
    return [worker["pid"] for worker in stack.workers("a")]


def crowded(stack: FaultStack) -> list[Stream]:
    """Six streams, of which four wait until there is a second worker."""
    streams = [stack.stream(seed, 150) for seed in range(6)]
    stack.until(lambda: len(workers(stack)) == 2, "two workers")
    return streams


@pytest.mark.slow
def test_a_queue_brings_a_second_worker_which_leaves_again_when_it_is_idle() -> None:
    with fault_stack("--step", "0.02", **rules("1-2", ttl=3)) as stack:
        all_right(crowded(stack))
        shown = {model["id"]: model for model in stack.http.get("/v1/models").json()["data"]}
        assert (shown["a"]["replicas"], shown["b"]["replicas"]) == ("1-2", "1-2")
        assert "start a with" in stack.log("broker") and "it has 1 of 1-2 workers" in stack.log("broker")
        stack.until(lambda: not stack.status()["workers"], "unloaded after its ttl")
        assert "one of its 2 workers had no request for 3 s" in stack.log("broker")


@pytest.mark.slow
def test_the_streams_of_a_killed_replica_go_on_with_the_other(stack: FaultStack) -> None:
    streams = crowded(stack)
    stack.until(lambda: all(w["in_flight"] for w in stack.workers("a")), "both busy")
    killed = workers(stack)[1]
    os.kill(killed, signal.SIGKILL)
    all_right(streams)
    assert stack.status()["deaths"][0]["pid"] == killed


@pytest.mark.slow
def test_a_broker_killed_beside_two_workers_finds_both_again(stack: FaultStack) -> None:
    streams = crowded(stack)
    before = set(workers(stack))
    stack.kill_broker()
    stack.until(lambda: {w["pid"] for w in stack.workers_in("ready")} == before, "both back")
    all_right(streams)
    assert len(stack.worker_processes()) <= 2


@pytest.mark.slow
def test_reload_and_unload_are_for_all_workers_and_streams_stay_whole(stack: FaultStack) -> None:
    streams = crowded(stack)
    before = set(workers(stack))
    for action, left in (("reload", 1), ("unload", 0)):
        answer = stack.http.post(f"/admin/models/a/{action}", json={"wait": True})
        assert answer.status_code == 200 and answer.json()["done"] is True, answer.text
        assert not before & {process.pid for process in stack.worker_processes()}
        if action == "reload":
            all_right(streams)
            assert left <= len(workers(stack)) <= 2
    stack.until(lambda: not stack.worker_processes(), "all gone")


@pytest.mark.slow
def test_a_replica_makes_room_for_another_model_and_the_sum_of_footprints_keeps_to_the_budget() -> None:
    tables = {name: {"source": "/none", "replicas": "1-2", "memory_gb": 0.45} for name in "ab"}
    times = {"min_stay": 0.3, "max_wait": 1.0, "max_in_flight": 2, "max_cache_size_gb": 1}
    options = ("--step", "0.02", "--load", "0.2", "--weights", str(250 * MB))
    settings = {"models": json.dumps(tables), "available_models": "a,b", **times}
    with fault_stack(*options, **settings) as stack:
        watch = Watch(stack)
        streams = crowded(stack)
        streams += [stack.stream(seed, 20, "b") for seed in range(2)]
        stack.until(lambda: len(stack.workers("b")) == len(workers(stack)) == 1, "one worker of each")
        all_right(streams)
        assert watch.close() <= 1000 * MB
        assert stack.status()["deaths"] == []
        lines = [one["line"] for one in stack.status()["memory"]["decisions"]]
        assert any(line.startswith("evict worker-a-") for line in lines)


@pytest.mark.slow
def test_a_broker_killed_while_a_second_worker_loads_starts_none_twice() -> None:
    with fault_stack("--step", "0.02", "--load", "1.5", **rules("1-2")) as stack:
        streams = [stack.stream(seed, 200) for seed in range(6)]
        stack.until(lambda: stack.workers("a") and stack.workers_in("loading"), "a second one loading")
        before = {process.pid for process in stack.worker_processes()}
        stack.kill_broker()
        stack.until(lambda: {worker["pid"] for worker in stack.workers_in("ready")} == before, "both ready")
        all_right(streams)
        assert len(before) == len(stack.log("broker").split("starting worker-a-")) - 1 == 2
