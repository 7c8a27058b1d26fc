"""Figures and verdicts as text, the same on the terminal and in the document. Pure."""

from benchmarks.results import Comparison
from benchmarks.workloads import Aim


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def ratio(row: Comparison) -> str:
    if row.ratio is None:
        return "failed" if row.why else "–"
    spread = f" ({number(row.low)}–{number(row.high)})" if row.low is not None else ""
    return f"{number(row.ratio)}{spread}"


def target(aim: Aim) -> str:
    return f"{'≥' if aim.more_is_better else '≤'} {aim.target:g}"


def verdict(met: bool | None) -> str:
    return {True: "met", False: "missed", None: "–"}[met]


def columns(row: Comparison) -> tuple[str, ...]:
    """Workload, figure, ours, against, ratio, target, verdict."""
    return (
        row.workload.title,
        row.aim.figure.value,
        f"{number(row.ours)} {row.aim.side}",
        f"{number(row.theirs)} {row.aim.against}",
        ratio(row),
        target(row.aim),
        verdict(row.met),
    )


HEADINGS = ("workload", "figure", "ours", "against", "ratio (rounds)", "target", "verdict")
