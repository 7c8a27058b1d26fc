"""From rounds to verdicts, and to the document."""

import math
from pathlib import Path

import pytest

from benchmarks import words
from benchmarks.costs import Cost
from benchmarks.plans import ClosedLoop
from benchmarks.plot import wanted
from benchmarks.replies import Figure
from benchmarks.report import BEGIN, DOCUMENT, END, filled
from benchmarks.results import Results, Rounds, compare, comparisons, read
from benchmarks.workloads import OURS, THEIRS, Aim, Workload

SPEED, TTFT = Aim(Figure.SPEED, 1.3), Aim(Figure.TTFT, 0.25)
WORKLOAD = Workload("w", "a workload", ClosedLoop(1, 1), (SPEED, TTFT))


def rounds(*speeds: float, failed: str | None = None) -> Rounds:
    return Rounds(figures=[{Figure.SPEED: speed, Figure.TTFT: 1 / speed} for speed in speeds], failed=failed)


def results() -> Results:
    costs = {"engine-step": [Cost(what="a step", value=2.5, unit="ms", aim=3)]}
    workloads = {"greedy-1": {OURS: rounds(4, 5), THEIRS: rounds(2, 2)}}
    return Results(date="2026-01-02", machine={}, versions={}, rounds=2, workloads=workloads, costs=costs)


def test_the_ratio_is_that_of_the_medians_and_the_spread_that_of_the_rounds() -> None:
    row = compare(WORKLOAD, SPEED, {OURS: rounds(10, 30, 20), THEIRS: rounds(10, 10, 40)})
    assert (row.ours, row.theirs, row.ratio) == (20, 10, 2)
    assert (row.low, row.high) == (0.5, 3)
    assert row.met


def test_where_less_is_better_the_factor_is_turned_round() -> None:
    row = compare(WORKLOAD, TTFT, {OURS: rounds(8), THEIRS: rounds(2)})
    assert row.ratio == pytest.approx(0.25)
    assert row.factor == pytest.approx(4)
    assert wanted(row) == 4
    assert row.met


def test_a_side_that_failed_has_no_ratio_and_says_why() -> None:
    row = compare(WORKLOAD, SPEED, {OURS: rounds(10, 10), THEIRS: rounds(5, failed="status 500")})
    assert row.ratio is None
    assert row.met is None
    assert "status 500" in row.why
    assert words.ratio(row) == "failed"


def test_a_side_that_was_not_asked_is_not_called_a_failure() -> None:
    row = compare(WORKLOAD, SPEED, {OURS: rounds(10)})
    assert (row.ours, row.ratio, words.ratio(row)) == (10, None, "–")


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.012")],
)
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert words.number(value) == text


def test_results_survive_the_file(tmp_path: Path) -> None:
    kept = results()
    kept.workloads["greedy-1"][OURS].figures[0][Figure.TTFT] = math.inf
    kept.save(tmp_path / "results.json")
    assert read(tmp_path / "results.json") == kept


def test_only_what_was_played_is_compared() -> None:
    assert [row.workload.name for row in comparisons(results())] == ["greedy-1"]


def test_the_document_is_filled_between_its_markers_and_can_be_filled_again() -> None:
    once = filled(f"before\n{BEGIN}\nold\n{END}\nafter", results())
    assert once.startswith("before\n")
    assert once.endswith("\nafter")
    assert "old" not in once
    assert "| 1 client, greedy | tokens/s |" in once
    assert "| a step | 2.50 | ms | ≤ 3 |" in once
    assert filled(once, results()) == once


def test_a_document_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="markers"):
        filled("nothing here", results())


def test_our_document_has_the_markers() -> None:
    assert filled(DOCUMENT.read_text(), results())
