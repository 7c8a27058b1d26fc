"""The table of workloads, and its way to the process that holds the model."""

from dataclasses import asdict

import pytest

from benchmarks.inside import PLANS
from benchmarks.plans import ClosedLoop, Decode
from benchmarks.replies import Figure
from benchmarks.session import COSTS
from benchmarks.workloads import BARE, ENGINE, OURS, THEIRS, WORKLOADS, Aim, Workload

every = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)


def test_names_are_unlike() -> None:
    names = [workload.name for workload in WORKLOADS] + list(COSTS)
    assert len(set(names)) == len(names)


@every
def test_an_aim_compares_two_sides(workload: Workload) -> None:
    assert workload.aims
    assert all(aim.side != aim.against for aim in workload.aims)


@every
def test_a_side_is_asked_only_what_it_can_play(workload: Workload) -> None:
    if {OURS, THEIRS} & set(workload.sides):
        assert not isinstance(workload.plan, Decode)
    if {ENGINE, BARE} & set(workload.sides):
        assert isinstance(workload.plan, Decode | ClosedLoop)


@every
def test_every_client_has_something_to_ask(workload: Workload) -> None:
    if isinstance(workload.plan, ClosedLoop):
        assert workload.plan.requests >= workload.plan.clients


@every
def test_a_plan_survives_the_way_to_the_child(workload: Workload) -> None:
    assert PLANS.validate_python(asdict(workload.plan)) == workload.plan


def test_sides_play_in_one_order() -> None:
    greedy = next(workload for workload in WORKLOADS if workload.name == "greedy-8")
    assert greedy.sides == (OURS, THEIRS, ENGINE)


@pytest.mark.parametrize(
    ("figure", "ratio", "met"),
    [
        (Figure.SPEED, 1.3, True),
        (Figure.SPEED, 1.2, False),
        (Figure.TTFT, 1.3, True),
        (Figure.WORST_GAP, 1.4, False),
    ],
)
def test_less_is_better_but_for_speed(figure: Figure, ratio: float, met: bool) -> None:
    assert Aim(figure, 1.3).met(ratio) is met
