"""Three models under a budget for two, as processes: all are answered, none aborted, and the memory suffices."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.stack import FaultStack, all_right, fault_stack
from tests.soak.swaps import Watch, rules, swaps

MB = 10**6
WEIGHTS = 250 * MB
MODELS = {name: {"source": "/none", "memory_gb": 0.45} for name in "abc"} | {
    "d": {"source": "/none", "memory_gb": 1.5}
}


@contextmanager
def crowd(load: str = "0.2") -> Iterator[FaultStack]:
    options = ("--step", "0.01", "--load", load, "--weights", str(WEIGHTS))
    settings = {"models": json.dumps(MODELS), "available_models": "a,b,c,d", "max_cache_size_gb": 1}
    with fault_stack(*options, min_stay=0.3, max_wait=1.0, **settings) as stack:
        yield stack


@pytest.fixture
def crowded() -> Iterator[FaultStack]:
    with crowd() as stack:
        yield stack


@pytest.mark.slow
def test_three_models_with_room_for_two_take_turns_and_every_answer_is_whole(crowded: FaultStack) -> None:
    watch = Watch(crowded)
    all_right([crowded.stream(seed, 20, "abc"[seed % 3]) for seed in range(9)])
    assert watch.close() <= 1000 * MB
    report = crowded.status()
    assert report["deaths"] == []
    memory = report["memory"]
    assert memory["used"] <= memory["budget"] == 1000 * MB
    lines = [one["line"] for one in memory["decisions"]]
    assert any(line.startswith("evict") for line in lines)
    assert "evict" in crowded.log("broker")
    crowded.check()


@pytest.mark.slow
def test_eight_clients_of_three_models_with_room_for_two_all_get_whole_answers_within_the_bound_of_a_wait() -> (
    None
):
    with fault_stack(
        "--step", "0.01", "--load", "0.2", "--weights", str(WEIGHTS), **rules("/none", need=0.45, budget=1.0)
    ) as stack:
        outcome = swaps(stack, 40)
        assert outcome.right, f"{outcome}: {outcome.wrong[:3]}"
        stack.check()


@pytest.mark.slow
def test_a_model_that_can_never_fit_is_refused_at_once_with_the_figures(crowded: FaultStack) -> None:
    body = {"model": "d", "prompt": "x", "max_tokens": 1}
    answer = crowded.http.post("/v1/completions", json=body)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_unavailable"
    assert "it needs 1.50 GB, and of the budget of 1.00 GB" in error["message"]
    assert crowded.status()["workers"] == []


@pytest.mark.slow
def test_a_broker_killed_in_the_middle_of_loads_starts_none_twice_and_keeps_to_the_budget() -> None:
    with crowd(load="2.5") as stack:
        watch = Watch(stack)
        streams = [stack.stream(seed, 10, "abc"[seed % 3]) for seed in range(6)]
        stack.until(lambda: len(stack.workers_in("loading")) == 2, "two models loading")
        stack.kill_broker()
        stack.until(lambda: stack.log("broker").count(" serving ") == 2, "another broker")
        all_right(streams)
        starts = re.findall(r"(?:starting|becomes) \S+ for '(.)'", stack.log("broker"))
        assert sorted(starts) == ["a", "b", "c"]
        assert watch.close() <= 1000 * MB
        stack.check()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["decided", "draining"])
def test_a_broker_killed_while_a_worker_makes_room_for_another_keeps_to_the_budget(moment: str) -> None:
    with crowd() as stack:
        watch = Watch(stack)
        streams = [stack.stream(seed, 400, "ab"[seed % 2]) for seed in range(4)]
        stack.until(lambda: stack.in_flight() == 4, "four streams")
        streams += [stack.stream(seed, 10, "c") for seed in range(4, 7)]
        stack.until(lambda: "c waits" in stack.log("broker"), "a third model that waits")
        if moment == "draining":
            stack.until(lambda: " evict " in stack.log("broker"), "an eviction")
        stack.kill_broker()
        all_right(streams)
        assert watch.close() <= 1000 * MB
        stack.check()
