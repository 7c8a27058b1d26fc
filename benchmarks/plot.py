"""The comparisons as a bar plot. matplotlib is not among the project's dependencies."""

from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import words
from benchmarks.results import Comparison, Results, comparisons

MISSING = "No plot: matplotlib is missing. Run `pip install matplotlib`, then `python -m benchmarks report`."
MET, MISSED, TARGET = "#3a7d44", "#c1666b", "#333333"


def draw(results: Results, file: Path) -> str | None:
    """Gives why there is no plot, if there is none."""
    rows = [row for row in comparisons(results) if row.factor is not None]
    if not rows:
        return "The plot was left out: there is nothing to compare."
    try:
        import_module("matplotlib").use("Agg")
    except ImportError:
        return MISSING
    figure, axes = import_module("matplotlib.pyplot").subplots(figsize=(10, 0.45 * len(rows) + 1.4))
    _bars(axes, rows[::-1])
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    return None


def _bars(axes: Any, rows: list[Comparison]) -> None:
    """To the right of 1 we are better, to the left they are."""
    axes.set_xscale("log")
    for place, row in enumerate(rows):
        factor = row.factor or 1.0
        axes.barh(place, factor - 1, left=1, color=MET if row.met else MISSED)
        axes.plot([wanted(row)] * 2, [place - 0.45, place + 0.45], color=TARGET, linewidth=2)
        axes.text(max(1, factor, wanted(row)) * 1.05, place, words.number(factor), va="center")
    axes.axvline(1, color=TARGET, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 1.3)  # room for the numbers
    ticks = [2.0**power for power in range(-6, 9) if low <= 2.0**power <= high * 1.3]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("times better than the other side; the mark is what we want")


def _label(row: Comparison) -> str:
    return f"{row.workload.title}\n{row.aim.figure.value.split(',')[0]}, against {row.aim.against}"


def wanted(row: Comparison) -> float:
    """The target as a factor."""
    return row.aim.target if row.aim.more_is_better else 1 / row.aim.target
