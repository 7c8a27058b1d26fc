"""``python -m tests.fuzz [TARGET …] --minutes 10``: damaged input until the time is over; what crashed, what grew.

Each target runs in a process of its own, so that a crash of a library is seen too. Exit code 1 if anything was found:
an error that is not the documented one, an input that takes longer than DEADLINE, the end of the process, or memory
that grows beyond GROWTH after the warm-up.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import timedelta
from pathlib import Path
from random import Random

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS

DEADLINE = 5.0  # seconds for one input
EACH = 500  # inputs of one round
WARM_UP = 0.3  # of the time
GROWTH = 64 << 20  # bytes
MOST = 2 << 30  # bytes at any time
SHOWN = 600  # characters of an input that was found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], default=[*TARGETS])
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--seed", type=int, help="of the first round; else another each time")
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if options.here:
        return fuzz(options.targets[0], options.minutes * 60, options.seed or Random().getrandbits(32))
    return max(_apart(target, options.minutes, options.seed) for target in options.targets)


def _apart(target: str, minutes: float, first: int | None) -> int:
    words = [
        target,
        "--here",
        "--minutes",
        str(minutes),
        *(["--seed", str(first)] if first is not None else []),
    ]
    code = subprocess.run([sys.executable, "-m", "tests.fuzz", *words], check=False).returncode
    if code < 0:
        print(f"{target}: the process was ended by signal {-code}")
    return 1 if code else 0


def fuzz(name: str, seconds: float, first: int) -> int:
    target, process = TARGETS[name], psutil.Process()
    logging.disable()
    counts = {True: 0, False: 0}
    last = list[str]()
    began, after_warm_up, most = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="mlx-fuzz") as folder:

        def read(found: tuple[object, bytes]) -> None:
            try:
                counts[target.read(Path(folder), *found)] += 1
            except BaseException:
                last[:] = [repr(found)[:SHOWN]]
                raise

        number = first
        while (spent := time.monotonic() - began) < seconds:
            number += 1
            round = settings(
                max_examples=EACH,
                deadline=timedelta(seconds=DEADLINE),
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )(seed(number)(given(target.inputs)(read)))
            try:
                round()
            except Exception as error:  # noqa: BLE001 (whatever is found is told)
                print(f"{name}: with --seed {number - 1}: {last}")
                print(*traceback.format_exception(error, limit=-6)[-7:], sep="")
                return 1
            used = process.memory_info().rss
            most = max(most, used)
            if spent > WARM_UP * seconds:
                after_warm_up = after_warm_up or used
    grown = used - (after_warm_up or used)
    print(
        f"{name}: {sum(counts.values()):,} inputs in {time.monotonic() - began:.0f} s, {counts[True]:,} of them taken; "
        f"{most >> 20} MiB at most, {grown / (1 << 20):+.0f} MiB after the warm-up; nothing found"
        if (well := grown < GROWTH and most < MOST)
        else f"{name}: the memory grew by {grown >> 20} MiB, to {most >> 20} MiB"
    )
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
