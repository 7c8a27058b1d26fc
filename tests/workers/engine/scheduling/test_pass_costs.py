"""What passes cost is measured once and then follows the machine."""

from types import SimpleNamespace

import pytest

from workers.engine.scheduling import pass_costs
from workers.engine.scheduling.pass_costs import PassCosts
from workers.engine.scheduling.plan import Costs


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
