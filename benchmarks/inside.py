"""The measurements that need no server: a program that holds the model and obeys one line of JSON after the other.

``python -m benchmarks.inside FOLDER`` is a process of its own, as a worker is, so that OpenBLAS is opened before mlx.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from pydantic import TypeAdapter

from benchmarks.plans import ClosedLoop, Decode, Plan
from benchmarks.replies import Played
from benchmarks.workloads import BARE
from workers.engine.cpu.allocator import keep_freed_memory
from workers.engine.cpu.blas import open_blas

PLANS: TypeAdapter[Plan] = TypeAdapter(Plan)
PLAYED: TypeAdapter[Played] = TypeAdapter(Played)


def main() -> None:
    answers = _own_stdout()
    keep_freed_memory()
    open_blas()
    answer = _answers_of(Path(sys.argv[1]))
    print("{}", file=answers, flush=True)  # ready
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def _own_stdout() -> TextIO:
    """What libraries print goes to stderr, not between our answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _answers_of(folder: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """mlx is imported from here on."""
    from benchmarks.bare_loop import decode_bare
    from benchmarks.engine_play import close_the_loop, decode
    from benchmarks.engine_step import step_cost
    from shared.settings import Settings
    from workers.model.load import inspect, load
    from workers.model.serve_model import serve_model

    loaded = load(folder, inspect(folder), lambda *_: None)
    served = serve_model(loaded, Settings(available_models=(f"bench={folder}",)))

    def play(side: str, plan: Plan, seed: str) -> Played:
        match plan:
            case Decode() if side == BARE:
                return decode_bare(loaded.model, served.prepare, plan, seed)
            case Decode():
                return decode(served, plan, seed)
            case ClosedLoop():
                return close_the_loop(served, plan, seed)
            case _:
                raise ValueError(f"{plan} is for servers")

    def answer(order: dict[str, Any]) -> dict[str, Any]:
        try:
            if order["do"] == "step":
                return {"step": step_cost(loaded, served.prepare)}
            played = play(order["side"], PLANS.validate_python(order["plan"]), order["seed"])
            return {"played": PLAYED.dump_python(played, mode="json")}
        except Exception as error:  # noqa: BLE001 - a result of this run like any other
            return {"failed": f"{type(error).__name__}: {error}"}

    return answer


if __name__ == "__main__":
    main()
