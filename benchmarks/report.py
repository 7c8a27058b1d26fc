"""Writes the results of the last whole run into the document, between its markers."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks import words
from benchmarks.results import Results, comparisons

DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PLOT = DOCUMENT.with_suffix(".png")
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def filled(document: str, results: Results) -> str:
    """``document`` with these results instead of those it has. Raises ValueError if it lacks the markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}"


def markdown(results: Results) -> str:
    facts = [f"{key} {value}" for key, value in (results.machine | results.versions).items()]
    parts = [
        f"{results.date[:10]}, {results.rounds} rounds. {', '.join(facts)}.",
        "![How many times better we are](benchmarks.png)",
        _table(words.HEADINGS, (words.columns(row) for row in comparisons(results))),
        *(f"{why}." for why in dict.fromkeys(row.why for row in comparisons(results) if row.why)),
        _table(("what it costs", "value", "unit", "aim"), _costs(results)),
        *(f"{name} failed: {why}." for name, why in results.failed.items()),
    ]
    return "\n\n".join(parts)


def _costs(results: Results) -> Iterable[tuple[str, ...]]:
    for costs in results.costs.values():
        for cost in costs:
            yield (
                cost.what,
                words.number(cost.value),
                cost.unit,
                "" if cost.aim is None else f"≤ {cost.aim:g}",
            )


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
