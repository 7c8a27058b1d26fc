"""``python -m benchmarks``: measures this machine, prints a table, writes results. ``… report`` writes the document."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence

import uvloop
from rich.console import Console

from benchmarks import plot, report
from benchmarks.child import INTERRUPTED, end_in_order
from benchmarks.failures import Failed
from benchmarks.results import LATEST, PARTIAL, Results, read
from benchmarks.session import COSTS, session
from benchmarks.table import show
from benchmarks.workloads import WORKLOADS
from shared.settings import load_settings

WIDTH = 150  # in a file or a pipe


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if options.list:
        for name, title in [(workload.name, workload.title) for workload in WORKLOADS] + list(COSTS.items()):
            print(f"{name:12} {title}")
        return 0
    if options.command == "report":
        return write_report(console)
    try:
        results = uvloop.run(measure(options, console))
    except Failed as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped; nothing was written.")
        return INTERRUPTED
    return keep(results, console, whole=not options.only and not options.ours_only)


def parser() -> argparse.ArgumentParser:
    names = [*(workload.name for workload in WORKLOADS), *COSTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["run", "report"], default="run")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds that count (default: 3)")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=names, metavar="NAME", help="these workloads only"
    )
    parser.add_argument("--ours-only", action="store_true", help="leave mlx_lm.server out")
    parser.add_argument("--list", action="store_true", help="name the workloads and end")
    return parser


async def measure(options: argparse.Namespace, console: Console) -> Results:
    end_in_order()
    only = set(options.only)
    workloads = [workload for workload in WORKLOADS if not only or workload.name in only]
    costs = [name for name in COSTS if not only or name in only]
    with session(
        load_settings().cache_dir,
        lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True),
    ) as run:
        return await run.measure(workloads, costs, options.rounds, ours_only=options.ours_only)


def keep(results: Results, console: Console, *, whole: bool) -> int:
    file = LATEST if whole else PARTIAL
    results.save(file)
    show(results, console)
    if whole and (why := plot.draw(results, report.PLOT)):
        console.print(why)
    console.print(f"Written to {os.path.relpath(file)}.")
    return 0


def write_report(console: Console) -> int:
    try:
        results = read(LATEST)
    except FileNotFoundError:
        console.print("There are no results yet: run `python -m benchmarks` first.")
        return 1
    report.DOCUMENT.write_text(report.filled(report.DOCUMENT.read_text(), results))
    if why := plot.draw(results, report.PLOT):
        console.print(why)
    console.print(f"Written to {os.path.relpath(report.DOCUMENT)}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
