"""What passes cost is measured once and then follows the machine."""

from collections.abc import Callable
from math import ceil
from types import SimpleNamespace

import pytest

from tests.scheduler.views import plan, row, task
from workers.engine.scheduling import pass_costs
from workers.engine.scheduling.pass_costs import PassCosts
from workers.engine.scheduling.plan import Costs, Limits


def measured(costs: Costs) -> PassCosts:
    return PassCosts(0.2, costs)


def test_a_pass_with_a_long_context_does_not_count_as_a_slow_machine() -> None:
    costs = measured(Costs(fixed=0.08, per_token=0.002, per_look=1e-6))
    for _ in range(40):
        costs.measured(80, 2000, 0.4)
    assert costs.now.slowness == pytest.approx(1.0)


def test_a_machine_that_has_become_slower_is_seen_after_some_passes() -> None:
    costs = measured(Costs(fixed=0.01, per_token=0.001))
    for _ in range(40):
        costs.measured(100, 0, 2 * 0.11)
    assert costs.now.slowness == pytest.approx(2.0, abs=0.01)


def test_the_first_decode_pass_counts_whole_and_later_ones_are_smoothed() -> None:
    costs = PassCosts(max_stall=0.2)
    costs.decoded(0.1)
    assert costs.now.decode == 0.1
    costs.decoded(0.2)
    assert 0.1 < costs.now.decode < 0.15


def test_the_cost_of_context_is_measured_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def read(behind: int, tokens: int) -> None:
        nonlocal now
        now += 0.08 + tokens * (0.002 + 1e-6 * behind)

    monkeypatch.setattr(pass_costs, "time", SimpleNamespace(perf_counter=lambda: now))
    costs = pass_costs.calibrated(lambda behind: behind, read, full_attention=True)
    assert costs.affordable(0.4, 0) == pytest.approx(160, abs=1)
    assert costs.affordable(0.4, 2000) == pytest.approx(80, abs=1)


# ---------------------------------------------------------------- accelerators

STALL = 0.2  # seconds


def roofline(
    weights: float, per_token: float, *, tile: int = 1, fixed: float = 0.0
) -> Callable[[int], float]:
    """Seconds of a pass that reads its weights while it computes its tokens, in whole tiles."""
    return lambda tokens: fixed + max(weights, per_token * ceil(tokens / tile) * tile)


MACHINES = {  # of a model of 8 billion weights
    "4 bits, a knee at 10 tokens": roofline(0.011, 0.0011),
    "16 bits, a knee at 35 tokens": roofline(0.04, 0.00114),
    "16 bits, a knee at 140 tokens": roofline(0.03, 0.00021),
    "tiles of 64 tokens": roofline(0.011, 0.0008, tile=64),
    "a fixed time beside both": roofline(0.02, 0.0006, fixed=0.03),
    "weights that take longer than the stall": roofline(0.35, 0.005),
    "a slow one": roofline(0.07, 0.006),
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    scripted = SimpleNamespace(now=0.0)
    monkeypatch.setattr(pass_costs, "time", SimpleNamespace(perf_counter=lambda: scripted.now))
    return scripted


def costs_of(seconds: Callable[[int], float], clock: SimpleNamespace) -> Costs:
    def read(behind: int, tokens: int) -> None:
        clock.now += seconds(tokens)

    return pass_costs.calibrated_beyond_knee(lambda behind: behind, read, full_attention=True)


@pytest.mark.parametrize("name", MACHINES)
def test_the_first_chunk_beside_decoding_sequences_keeps_the_stall_and_is_not_below_the_knee(
    name: str, clock: SimpleNamespace
) -> None:
    seconds = MACHINES[name]
    costs = costs_of(seconds, clock)
    [chunk] = plan(
        task("a", 9_000), row("r"), costs=costs, limits=Limits(chunk=2048, max_stall=STALL)
    ).prefill
    knee = max(tokens for tokens in range(1, 200) if seconds(tokens) <= seconds(1))
    assert chunk.end >= 0.9 * knee
    assert seconds(chunk.end) <= max(1.5 * STALL, seconds(1)) + 1e-9


@pytest.mark.parametrize("name", MACHINES)
def test_passes_of_any_size_do_not_count_as_a_slow_or_a_fast_machine(
    name: str, clock: SimpleNamespace
) -> None:
    seconds = MACHINES[name]
    for tokens in (1, 16, 64, 300, 2048):
        costs = measured(costs_of(seconds, clock))
        for _ in range(40):
            costs.measured(tokens, 0, seconds(tokens))
        assert 0.5 <= costs.now.slowness <= 2.0, tokens


def test_few_tokens_do_not_tell_what_a_token_costs_an_accelerator(clock: SimpleNamespace) -> None:
    """What is measured on a CPU would let the first chunk stall sequences for seconds."""
    seconds = MACHINES["16 bits, a knee at 140 tokens"]

    def read(behind: int, tokens: int) -> None:
        clock.now += seconds(tokens)

    few = pass_costs.calibrated(lambda behind: behind, read, full_attention=True)
    limits = Limits(chunk=2048, max_stall=STALL)
    [chunk] = plan(task("a", 9_000), row("r"), costs=few, limits=limits).prefill
    assert seconds(chunk.end) > 2 * STALL


def test_one_unsteady_measurement_makes_no_pass_free(clock: SimpleNamespace) -> None:
    took = iter([0.1, 0.9, 0.05, 0.6, 0.5, 0.6])  # the pass of half the size was disturbed

    def read(behind: int, tokens: int) -> None:
        clock.now += next(took)

    costs = pass_costs.calibrated_beyond_knee(lambda behind: behind, read, full_attention=True)
    assert costs.prefill(2048, 0) >= 1.0
    assert costs.affordable(STALL, 0) < 512


def test_a_cpu_has_no_knee() -> None:
    assert Costs(fixed=0.08, per_token=0.004).knee(0) == 0
