"""The results on a terminal."""

from rich.console import Console
from rich.table import Table

from benchmarks import words
from benchmarks.results import Results, comparisons

COLOURS = {True: "green", False: "red", None: "dim"}


def show(results: Results, console: Console) -> None:
    if rows := comparisons(results):
        table = Table(*words.HEADINGS)
        for row in rows:
            table.add_row(*words.columns(row), style=COLOURS[row.met])
        console.print(table)
        for why in dict.fromkeys(row.why for row in rows if row.why):
            console.print(why, style="red", markup=False)
    if results.costs:
        console.print(_costs(results))
    for name, why in results.failed.items():
        console.print(f"{name} failed: {why}", style="red", markup=False)


def _costs(results: Results) -> Table:
    table = Table("what it costs", "value", "unit", "aim")
    for costs in results.costs.values():
        for cost in costs:
            aim = "" if cost.aim is None else f"≤ {cost.aim:g}"
            style = COLOURS[cost.value <= cost.aim] if cost.aim is not None else None
            table.add_row(cost.what, words.number(cost.value), cost.unit, aim, style=style)
    return table
