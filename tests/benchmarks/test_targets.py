"""From replies to figures, and from rounds to verdicts."""

import math

import pytest

from benchmarks.client import Played, Reply
from benchmarks.targets import (
    HEADINGS,
    OURS,
    TARGETS,
    THEIRS,
    Figure,
    Rounds,
    Target,
    figures,
    judged,
    verdicts,
)
from cli.bench.figures import number, percentile

SPEED, TTFT = Target("greedy-8", Figure.SPEED, 1.3), Target("prefix-8", Figure.TTFT, 0.25)


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


def rounds(*speeds: float, failed: str = "") -> Rounds:
    return Rounds([{Figure.SPEED: speed, Figure.TTFT: 1 / speed} for speed in speeds], failed)


def test_the_ratio_is_that_of_the_medians_and_the_spread_that_of_the_rounds() -> None:
    row = judged(SPEED, {OURS: rounds(10, 30, 20), THEIRS: rounds(10, 10, 40)})
    assert row == (
        "tokens/s",
        "20.0 mlx-server",
        "10.0 mlx_lm.server",
        "2.00 (0.50–3.00)",
        "≥ 1.3",
        "met",
    )


def test_where_less_is_better_more_is_missed() -> None:
    assert judged(TTFT, {OURS: rounds(8), THEIRS: rounds(2)})[-2:] == ("≤ 0.25", "met")
    assert judged(TTFT, {OURS: rounds(7), THEIRS: rounds(2)})[-1] == "missed"


def test_a_side_that_failed_has_no_ratio() -> None:
    sides = {OURS: rounds(10, 10), THEIRS: rounds(5, failed="status 500")}
    assert judged(SPEED, sides)[-3:] == ("failed", "≥ 1.3", "–")


def test_a_side_that_was_not_asked_is_not_called_a_failure() -> None:
    assert judged(SPEED, {OURS: rounds(10)})[1:4] == ("10.0 mlx-server", "– mlx_lm.server", "–")


def test_only_what_was_played_is_compared() -> None:
    [row] = verdicts({"greedy-1": {OURS: rounds(4, 5), THEIRS: rounds(2, 2)}})
    assert row[0] == "1 client, greedy" and len(row) == len(HEADINGS)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.workload} {target.figure}")
def test_a_target_compares_two_sides(target: Target) -> None:
    assert target.side != target.against


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.012"), (None, "–")],
)
def test_numbers_have_the_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text
