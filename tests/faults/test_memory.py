"""Three models under a budget for two, as processes: all are answered, none aborted, and the memory suffices."""

import json
from collections.abc import Iterator

import pytest

from tests.faults.stack import FaultStack, all_right, fault_stack
from tests.soak.swaps import Watch, rules, swaps

MB = 10**6
WEIGHTS = 250 * MB
MODELS = {name: {"source": "/none", "memory_gb": 0.45} for name in "abc"} | {
    "d": {"source": "/none", "memory_gb": 1.5}
}


@pytest.fixture
def crowded() -> Iterator[FaultStack]:
    options = ("--step", "0.01", "--load", "0.2", "--weights", str(WEIGHTS))
    settings = {"models": json.dumps(MODELS), "available_models": "a,b,c,d", "max_cache_size_gb": 1}
    with fault_stack(*options, min_stay=0.3, max_wait=1.0, **settings) as stack:
        yield stack


def test_three_models_with_room_for_two_take_turns_and_every_answer_is_whole(crowded: FaultStack) -> None:
    watch = Watch(crowded)
    for turn in range(2):
        all_right([crowded.stream(seed, 20, "abc"[seed % 3]) for seed in range(9 * turn, 9 * turn + 9)])
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


def test_a_model_that_can_never_fit_is_refused_at_once_with_the_figures(crowded: FaultStack) -> None:
    body = {"model": "d", "prompt": "x", "max_tokens": 1}
    answer = crowded.http.post("/v1/completions", json=body)
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert error["code"] == "model_unavailable"
    assert "it needs 1.5 GB, and of the budget of 1.0 GB" in error["message"]
    assert crowded.status()["workers"] == []
