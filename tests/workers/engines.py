"""Engines on tiny models, and what requests get from them."""

from collections.abc import Callable, Iterable

from shared.protocol import Delta
from workers.engine.engine import BatchEngine
from workers.job import Job

MakeEngine = Callable[..., BatchEngine]

LONG = [(7 * i) % 250 + 3 for i in range(120)]


def play(
    engine: BatchEngine, jobs: Iterable[Job], steps_between: int = 0
) -> dict[tuple[str, int], list[Delta]]:
    """Adds the jobs, with steps between them, and runs to the end; the deltas by request and choice."""
    deltas: dict[tuple[str, int], list[Delta]] = {}

    def step() -> None:
        for output in engine.step():
            deltas.setdefault((output.delta.request_id, output.delta.choice), []).append(output.delta)

    for each in jobs:
        engine.add(each)
        for _ in range(steps_between):
            step()
    for _ in range(2000):
        if not engine.active:
            return deltas
        step()
    raise AssertionError("the engine does not come to an end")


def ids(deltas: list[Delta]) -> list[int]:
    return [id for delta in deltas for id in delta.ids]


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def cached_tokens(deltas: list[Delta]) -> int:
    assert deltas[0].start is not None
    return deltas[0].start.cached_tokens
