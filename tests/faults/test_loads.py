"""Models that are asked for by many at once, and models that do not load."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults.client import Answer
from tests.faults.crowd import ask, asked, together
from tests.faults.stack import FaultStack, all_right, fault_stack

COLD = [f"m{number}" for number in range(10)]


@pytest.mark.slow
def test_a_storm_on_cold_models_starts_one_process_for_each() -> None:
    models = ",".join(f"{model}=/none" for model in COLD)
    with fault_stack(
        "--step", "0.01", "--load", "0.5", available_models=models, queue_per_model=256
    ) as stack:
        wanted = [asked(seed, 5, COLD[0]) for seed in range(200)]
        wanted += [asked(seed, 5, model) for seed, model in enumerate(COLD[1:])]
        answers = together(lambda answer=answer: ask(stack.port, answer) for answer in wanted)  # type: ignore[misc]
        assert not [answer.wrong for answer in answers if answer.wrong]
        assert stack.log("broker").count(": starting worker-") == len(COLD)
        assert len(stack.worker_processes()) == len(COLD)
        stack.check()


@pytest.fixture
def broken() -> Iterator[tuple[FaultStack, Path]]:
    """Model ``a`` does not load while the file names it."""
    with TemporaryDirectory(prefix="mlx") as folder:
        broken = Path(folder) / "broken"
        broken.write_text("a")
        with fault_stack("--exit-if", str(broken), first_token_silence=20) as stack:
            yield stack, broken
            stack.check()


def ask_once(stack: FaultStack) -> Answer:
    answer = stack.stream(1, 5).result()
    if answer.status == 503:
        assert answer.errors[0]["code"] == "model_unavailable"
        assert "exited with code 1 before it was ready" in answer.errors[0]["message"]
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    return answer


@pytest.mark.slow
def test_a_model_that_never_loads_is_tried_ever_later_and_then_refused_at_once(
    broken: tuple[FaultStack, Path],
) -> None:
    stack, _ = broken
    started: list[float] = []
    while len(started) < 5:
        assert ask_once(stack).status == 503
        started = sorted(-death["ago"] for death in stack.status()["deaths"])
        all_right([stack.stream(2, 5, "b")])
    gaps = [later - earlier for earlier, later in pairwise(started)]
    assert all(gap > least for gap, least in zip(gaps, (0, 0.9, 1.9, 3.9), strict=True)), gaps
    for _ in range(20):
        assert ask_once(stack).status == 503
    assert len(stack.status()["deaths"]) == 5, "refused without another try"
    [death, *_] = stack.status()["deaths"]
    assert death["last_lines"] == ["the weights are made of cheese"]


@pytest.mark.slow
def test_a_model_that_is_mended_is_served(broken: tuple[FaultStack, Path]) -> None:
    stack, file = broken
    assert ask_once(stack).status == 503
    file.unlink()
    assert not stack.stream(1, 5).result().wrong
