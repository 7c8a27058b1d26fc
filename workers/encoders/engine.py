"""The engine of an encoder: in each step texts of all requests that wait, packed; a request is answered when all of
its texts are computed.

Rule: what a text gets does not depend on the texts beside it: to the last bit where products of matrices do not, and
nothing is padded; see ``packed``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from workers.encoders.job import EncodingJob
from workers.encoders.models.compute import Compute
from workers.encoders.models.packed import group_of
from workers.encoders.packing import Choice, Pending, choose, grouped
from workers.engine.figures import Figures, Report
from workers.engine.memory.device_memory import DeviceMemory
from workers.job import Forgotten, KvUse, Output


@dataclass(frozen=True)
class EncoderLimits:
    """``tokens``: of one step. ``padding``: the most that may be padding of what is computed side by side."""

    tokens: int = 1024
    padding: float = 0.25


@dataclass(eq=False)
class _Running:
    job: EncodingJob
    pending: Pending
    left: int
    results: list[np.ndarray | None]

    def keep(self, choice: Choice, result: np.ndarray) -> None:
        self.results[choice.text] = result
        self.left -= 1

    @property
    def stacked(self) -> np.ndarray:
        """(texts, size)"""
        there = [result for result in self.results if result is not None]
        return np.stack(there) if there else np.zeros((0, 0), np.float32)


class EncoderEngine:
    """``compute`` gives (texts, size) for each group of texts. Its weights must be there."""

    def __init__(self, compute: Compute, limits: EncoderLimits, *, invariance: str = "rounding") -> None:
        self._compute = compute
        self._limits = limits
        self._running: dict[str, _Running] = {}
        self._figures = Figures()
        self._steps = self._tokens = 0
        self._invariance = invariance
        self._kv_use = KvUse()
        self._device_memory = DeviceMemory(weights=mx.get_active_memory())
        self._device_memory.lend(0)
        self._tally(0, 0, 0)

    @property
    def active(self) -> int:
        return len(self._running)

    @property
    def report(self) -> Report:
        return self._figures.report(time.monotonic())

    @property
    def kv_use(self) -> KvUse:
        return self._kv_use

    def lend(self, size: int) -> None:
        """An encoder keeps no keys and values, so it is always within its lease."""
        self._kv_use = KvUse(obeyed=size)
        self._device_memory.lend(size)

    def add(self, job: EncodingJob) -> None:
        pending = Pending(job.asker, [text.tokens for text in job.texts])
        count = len(job.texts)
        self._running[job.request_id] = _Running(job, pending, count, [None] * count)

    def cancel(self, request_id: str) -> None:
        self._running.pop(request_id, None)

    def forget(self, namespace: str | None, done: Callable[[Forgotten], None]) -> None:
        """An encoder keeps no texts."""
        done(Forgotten())

    def rest(self) -> None:
        mx.clear_cache()

    def step(self) -> list[Output]:
        """The answers to those whose last text it has computed."""
        by_pending = {id(running.pending): running for running in self._running.values()}
        chosen = choose((running.pending for running in by_pending.values()), self._limits.tokens)
        padded = self._encode(chosen, by_pending) if chosen else 0
        done = [running for running in by_pending.values() if not running.left]
        for running in done:
            del self._running[running.job.request_id]
        self._steps += 1
        self._tally(len(chosen), sum(choice.tokens for choice in chosen), padded)
        return [running.job.answered(running.stacked) for running in done]

    def _encode(self, chosen: list[Choice], by_pending: dict[int, _Running]) -> int:
        """Gives the tokens that were computed, padding included."""
        texts = [by_pending[id(choice.of)].job.texts[choice.text] for choice in chosen]
        groups = grouped([text.tokens for text in texts], self._limits.padding)
        packed = [
            group_of([texts[i].ids for i in group], [texts[i].types for i in group]) for group in groups
        ]
        results = self._compute(packed, [[texts[i].skipped for i in group] for group in groups])
        for group, given in zip(groups, results, strict=True):
            for text, result in zip(group, given, strict=True):
                by_pending[id(chosen[text].of)].keep(chosen[text], result)
        return sum(group.ids.size for group in packed)

    def _tally(self, texts: int, tokens: int, padded: int) -> None:
        now = time.monotonic()
        self._tokens += tokens
        self._figures.count(tokens, now)
        waiting = [running.pending for running in self._running.values()]
        self._figures.update(
            now,
            step=self._steps,
            phase="encode" if waiting else "idle",
            invariance=self._invariance,
            rows=texts,
            padding=round(1 - tokens / padded, 4) if padded else 0.0,
            waiting=sum(len(pending.waiting) for pending in waiting),
            waiting_tokens=sum(pending.tokens for pending in waiting),
            tokens=self._tokens,
            active_bytes=mx.get_active_memory(),
            peak_bytes=mx.get_peak_memory(),
        )
