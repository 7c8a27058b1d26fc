"""What grammars cost a batch: the same rows with a JSON schema and without, in short turns.

``python -m benchmarks.grammar_cost [CACHE_DIR]``. Two engines hold the rows of one model, and each steps a few times
while the other waits, so that whatever else uses the machine slows both. Aim: 0.9 of the tokens/s without a grammar.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.float32_model import make_once
from shared.protocol import ChatPrompt, Generation, Grammar, Run, Sampling, Stopping, Submit
from shared.settings import Settings, load_settings
from workers.engine.cpu.blas import open_blas
from workers.job import Served

ROWS, TURNS, STEPS = 8, 16, 5
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 24},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "job": {"enum": ["cook", "pilot", "farmer"]},
        "email": {"type": "string", "pattern": "^[a-z]{2,10}@[a-z]{2,10}\\.com$"},
    },
    "required": ["name", "age", "job", "email"],
    "additionalProperties": False,
}
PEOPLE = Grammar(json_schema={"type": "array", "minItems": 60, "items": PERSON})  # longer than is measured


def compare(free: Served, bound: Served, temperature: float) -> None:
    _seat(free, None, temperature)
    _seat(bound, PEOPLE, temperature)
    rates: dict[str, list[float]] = {"free": [], "bound": []}
    ratios = []
    for turn in range(TURNS):
        order = [("free", free), ("bound", bound)]
        for name, served in order if turn % 2 else reversed(order):
            rates[name].append(_step(served))
        ratios.append(rates["bound"][-1] / rates["free"][-1])
    for served in (free, bound):
        _leave(served)
    print(f"temperature {temperature}: {_words(rates['free'], rates['bound'], ratios)}", flush=True)


def _words(free: Sequence[float], bound: Sequence[float], ratios: Sequence[float]) -> str:
    low, _, high = statistics.quantiles(ratios, n=4)
    return (
        f"{statistics.median(free):.1f} tokens/s without, {statistics.median(bound):.1f} with, "
        f"ratio {statistics.median(ratios):.3f} (middle half {low:.2f} to {high:.2f})"
    )


def _seat(served: Served, grammar: Grammar | None, temperature: float) -> None:
    """All rows decode when this returns."""
    silent = set()
    for i in range(ROWS):
        words = f"List {60 + i} people of a small town as JSON, each with name, age, job and email."
        generation = Generation(
            prompt=ChatPrompt(messages=[{"role": "user", "content": words}]),
            sampling=Sampling(seed=i, temperature=temperature),
            stopping=Stopping(ignore_eos=True),
            grammar=grammar,
        )
        submit = Submit(request_id=str(i), attempt=1, model="bench", generation=generation)
        served.engine.add(served.prepare(Run(api="bench", submit=submit)))
        silent.add(str(i))
    while silent:
        silent -= {output.delta.request_id for output in served.engine.step()}


def _step(served: Served) -> float:
    """Tokens a second; nothing is left to run in the other's turn."""
    import mlx.core as mx

    began = time.perf_counter()
    tokens = sum(len(output.delta.ids) for _ in range(STEPS) for output in served.engine.step())
    mx.synchronize()
    return tokens / (time.perf_counter() - began)


def _leave(served: Served) -> None:
    for i in range(ROWS):
        served.engine.cancel(str(i))
    served.engine.step()


def main(cache_dir: Path) -> None:
    """mlx is imported from here on."""
    from workers.model.load import inspect, load
    from workers.model.serve_model import serve_model

    folder = make_once(cache_dir)
    loaded: Any = load(folder, inspect(folder), lambda *_: None)
    free, bound = (serve_model(loaded, Settings()) for _ in range(2))
    for temperature in (0.0, 1.0):
        compare(free, bound, temperature)


if __name__ == "__main__":
    open_blas()
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else load_settings().cache_dir)
