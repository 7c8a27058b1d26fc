"""The engine of an encoder: in each step texts of all requests that wait, packed; a request is answered when all of
its texts are computed.

Rule: what a text gets does not depend on the texts beside it: to the last bit where products of matrices do not, and
nothing is padded; see ``packed``.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import mlx.core as mx
import numpy as np

from shared.callers import Asker
from workers.encoders.compute import Compute
from workers.encoders.packed import group_of
from workers.encoders.packing import Choice, Pending, choose, grouped
from workers.encoders.text import Text
from workers.engine.rate import WINDOW, Rate

Report = dict[str, float | int | str]


class EncodingJob(Protocol):
    """A request that can run."""

    @property
    def request_id(self) -> str: ...
    @property
    def asker(self) -> Asker: ...
    @property
    def texts(self) -> Sequence[Text]: ...


J = TypeVar("J", bound=EncodingJob)


@dataclass(frozen=True)
class EncoderLimits:
    """``tokens``: of one step. ``padding``: the most that may be padding of what is computed side by side."""

    tokens: int = 1024
    padding: float = 0.25


@dataclass(eq=False)
class _Running(Generic[J]):
    job: J
    pending: Pending
    left: int
    results: list[np.ndarray | None] = field(default_factory=list)


class EncoderEngine(Generic[J]):
    """``compute`` gives (texts, size) for each group of texts."""

    def __init__(self, compute: Compute, limits: EncoderLimits, *, invariance: str = "rounding") -> None:
        self._compute = compute
        self._limits = limits
        self._running: dict[str, _Running[J]] = {}
        self._rate = Rate()
        self._steps = self._tokens = 0
        self._invariance = invariance
        self._tallied = 0.0
        self._figures: Report = {}
        self._tally(0, 0, 0)

    @property
    def active(self) -> int:
        return len(self._running)

    @property
    def report(self) -> Report:
        """As of the last step."""
        idle = time.monotonic() - self._tallied > WINDOW
        return {**self._figures, "tokens_per_second": 0.0} if idle else self._figures

    def add(self, job: J) -> None:
        pending = Pending(job.asker, [text.tokens for text in job.texts])
        count = len(job.texts)
        self._running[job.request_id] = _Running(job, pending, count, [None] * count)

    def cancel(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def rest(self) -> None:
        mx.clear_cache()

    def done_in_step(self) -> list[tuple[J, np.ndarray]]:
        """The requests whose last text this step has computed, and (texts, size) for each."""
        by_pending = {id(running.pending): running for running in self._running.values()}
        chosen = choose((running.pending for running in by_pending.values()), self._limits.tokens)
        if not chosen:
            return []
        padded = 0
        texts = [by_pending[id(choice.of)].job.texts[choice.text] for choice in chosen]
        groups = grouped([text.tokens for text in texts], self._limits.padding)
        packed = [
            group_of([texts[i].ids for i in group], [texts[i].types for i in group]) for group in groups
        ]
        results = self._compute(packed, [[texts[i].skipped for i in group] for group in groups])
        for group, table, given in zip(groups, packed, results, strict=True):
            padded += table.ids.size
            for text, result in zip(group, given, strict=True):
                _keep(by_pending[id(chosen[text].of)], chosen[text], result)
        done = [self._finished(running) for running in by_pending.values() if not running.left]
        self._steps += 1
        self._tally(len(chosen), sum(choice.tokens for choice in chosen), padded)
        return done

    def _finished(self, running: _Running[J]) -> tuple[J, np.ndarray]:
        del self._running[running.job.request_id]
        return running.job, np.stack([result for result in running.results if result is not None])

    def _tally(self, texts: int, tokens: int, padded: int) -> None:
        now = self._tallied = time.monotonic()
        self._tokens += tokens
        self._rate.count(tokens, now)
        waiting = [running.pending for running in self._running.values()]
        self._figures = {
            "step": self._steps,
            "phase": "encode" if waiting else "idle",
            "invariance": self._invariance,
            "rows": texts,
            "padding": round(1 - tokens / padded, 4) if padded else 0.0,
            "waiting": sum(len(pending.waiting) for pending in waiting),
            "waiting_tokens": sum(pending.tokens for pending in waiting),
            "tokens": self._tokens,
            "tokens_per_second": self._rate.per_second(now),
            "active_bytes": mx.get_active_memory(),
            "peak_bytes": mx.get_peak_memory(),
        }


def _keep(running: _Running[J], choice: Choice, result: np.ndarray) -> None:
    running.results[choice.text] = result
    running.left -= 1
