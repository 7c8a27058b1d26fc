"""The figures that count, how well we want to do in each, and what a run came to. Pure.

A target compares one figure of two sides; the ratio is that of the medians of the rounds.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from benchmarks.client import Played
from benchmarks.workloads import WORKLOADS
from cli.bench.figures import number, percentile

OURS, THEIRS, ENGINE, BARE = "mlx-server", "mlx_lm.server", "our engine", "bare loop"
HEADINGS = ("workload", "figure", "ours", "against", "ratio (rounds)", "target", "verdict")


class Figure(StrEnum):
    SPEED = "tokens/s"
    TTFT = "first token p50, s"
    GAP = "gap p99, s"
    WORST_GAP = "worst gap, s"


Figures = Mapping[Figure, float]


@dataclass(frozen=True)
class Target:
    """``figure`` of ``side`` divided by that of ``against``: at least ``ratio``, or at most if less is better."""

    workload: str
    figure: Figure
    ratio: float
    against: str = THEIRS
    side: str = OURS

    @property
    def more_is_better(self) -> bool:
        return self.figure is Figure.SPEED

    def met(self, ratio: float) -> bool:
        return ratio >= self.ratio if self.more_is_better else ratio <= self.ratio


TARGETS = (
    Target("greedy-1", Figure.SPEED, 1.0),
    Target("greedy-8", Figure.SPEED, 1.3),
    Target("greedy-8", Figure.SPEED, 0.95, against=ENGINE),
    Target("greedy-32", Figure.SPEED, 1.5),
    Target("greedy-32", Figure.GAP, 0.25),
    Target("greedy-32", Figure.SPEED, 0.95, against=ENGINE),
    Target("sampled-8", Figure.SPEED, 2.0),
    Target("seeded-8", Figure.SPEED, 5.0),
    Target("prefix-8", Figure.SPEED, 3.0),
    Target("prefix-8", Figure.TTFT, 0.25),
    Target("second-turn", Figure.TTFT, 1.0),
    Target("late-prompt", Figure.WORST_GAP, 0.25),
    Target("two-models", Figure.SPEED, 5.0),
    Target("decode-32", Figure.SPEED, 0.85, side=ENGINE, against=BARE),
)


def sides_of(workload: str) -> tuple[str, ...]:
    """Those that a target of the workload names, in the order of play."""
    named = {
        side for target in TARGETS if target.workload == workload for side in (target.side, target.against)
    }
    return tuple(side for side in (OURS, THEIRS, ENGINE, BARE) if side in named)


def figures(played: Played) -> dict[Figure, float]:
    """Those that the replies give; a workload without clients has a speed only."""
    found = {Figure.SPEED: played.tokens / played.seconds}
    if not played.replies:
        return found
    gaps = [gap for reply in played.replies for gap in reply.gaps]
    found[Figure.TTFT] = percentile([reply.ttft for reply in played.replies], 50)
    if gaps:
        found |= {Figure.GAP: percentile(gaps, 99), Figure.WORST_GAP: max(gaps)}
    return found


@dataclass
class Rounds:
    """The figures of one side in one workload, round by round; ``failed`` says why there are no more."""

    figures: list[Figures] = field(default_factory=list)
    failed: str = ""

    def of(self, figure: Figure) -> list[float]:
        return [found[figure] for found in self.figures if figure in found]


Results = Mapping[str, Mapping[str, Rounds]]  # by workload, by side


def verdicts(results: Results) -> list[tuple[str, ...]]:
    """A row of the table for each target of the workloads that were played."""
    titles = {workload.name: workload.title for workload in WORKLOADS}
    return [
        (titles[target.workload], *judged(target, results[target.workload]))
        for target in TARGETS
        if target.workload in results
    ]


def judged(target: Target, sides: Mapping[str, Rounds]) -> tuple[str, ...]:
    ours, theirs = sides.get(target.side, Rounds()), sides.get(target.against, Rounds())
    mine, other = median(ours, target.figure), median(theirs, target.figure)
    pairs = zip(ours.of(target.figure), theirs.of(target.figure), strict=False)
    ratios = [one / another for one, another in pairs if another]
    shown, verdict = "failed" if ours.failed or theirs.failed else "–", "–"
    if mine is not None and other:
        shown = f"{number(mine / other)} ({number(min(ratios))}–{number(max(ratios))})"
        verdict = "met" if target.met(mine / other) else "missed"
    return (
        target.figure.value,
        f"{number(mine)} {target.side}",
        f"{number(other)} {target.against}",
        shown,
        f"{'≥' if target.more_is_better else '≤'} {target.ratio:g}",
        verdict,
    )


def median(rounds: Rounds, figure: Figure) -> float | None:
    values = rounds.of(figure)
    return statistics.median(values) if values and not rounds.failed else None


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
