"""What replies come to."""

import math

import pytest

from benchmarks.replies import Figure, Played, Reply, figures, percentile


def test_the_first_token_is_counted_from_sending() -> None:
    assert Reply(sent=1.0, arrivals=[1.5, 2.0]).ttft == 0.5


def test_a_reply_without_text_never_began() -> None:
    assert Reply(sent=1.0).ttft == math.inf
    assert Reply(sent=1.0).gaps == []


def test_gaps_lie_between_arrivals() -> None:
    assert Reply(sent=0.0, arrivals=[1.0, 1.5, 4.0]).gaps == [0.5, 2.5]


@pytest.mark.parametrize(
    ("moment", "left"), [(0.5, [1.0, 2.0, 5.0]), (1.5, [1.0, 2.0, 5.0]), (3.0, [2.0, 5.0]), (9.0, [5.0])]
)
def test_the_gap_that_a_moment_falls_into_counts_in_full(moment: float, left: list[float]) -> None:
    assert Reply(sent=0.0, arrivals=[1.0, 2.0, 5.0]).since(moment).arrivals == left


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (75, 3), (76, 4), (99, 4), (100, 4), (0, 1)])
def test_a_percentile_is_one_of_the_values(percent: float, value: float) -> None:
    assert percentile([4, 2, 1, 3], percent) == value


def test_figures_of_replies() -> None:
    replies = [Reply(0.0, [1.0, 1.25]), Reply(0.0, [2.0, 2.5]), Reply(0.0, [3.0])]
    assert figures(Played(seconds=4.0, tokens=10, replies=replies)) == {
        Figure.SPEED: 2.5,
        Figure.TTFT: 2.0,
        Figure.GAP: 0.5,
        Figure.WORST_GAP: 0.5,
    }


def test_a_workload_without_clients_has_a_speed_only() -> None:
    assert figures(Played(seconds=2.0, tokens=10)) == {Figure.SPEED: 5.0}
