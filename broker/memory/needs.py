"""What models need of this machine: learned from their workers, or said by the operator. Pure.

Rule 1: what is learned is the base: the footprint less keys and values. A model that once had the machine to itself
    would else never share it again.
Rule 2: what is learned holds for one digest: other weights are another model.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from broker.memory.decisions import GB
from broker.memory.ledger import Need

OVERHEAD = GB // 2  # of a worker process beside its weights, until it is measured
SMALLEST_LEASE = GB // 4
_UNKNOWN_LOAD = 5.0  # seconds
_DECAY = 0.95  # of a learned base at each load, so that one bad day is forgotten
_HALF_LIFE = 600.0  # seconds, of what is remembered of requests


@dataclass(slots=True)
class Learned:
    digest: str = ""
    weights: int = 0  # as its files say; 0: not inspected, or not on this disk yet
    base: int = 0
    context_bytes: int = 0  # keys and values of one sequence as long as the context
    loads: deque[float] = field(default_factory=lambda: deque(maxlen=5))


@dataclass(slots=True)
class _Requests:
    count: float = 0.0
    at: float = 0.0

    def decayed(self, now: float) -> float:
        return self.count * float(0.5 ** ((now - self.at) / _HALF_LIFE))


class Needs:
    """``said``: bytes that an operator has set for a model, in place of what is learned; ``pinned``: models."""

    def __init__(self, budget: int, said: Mapping[str, int], pinned: frozenset[str]) -> None:
        self._budget = budget
        self._said = said
        self._pinned = pinned
        self._learned: dict[str, Learned] = {}
        self._requests: dict[str, _Requests] = {}

    def configure(self, budget: int, said: Mapping[str, int], pinned: frozenset[str]) -> None:
        self._budget, self._said, self._pinned = budget, said, pinned

    def of(self, model: str, now: float, reading: int = 0) -> Need:
        """``reading``: bytes of weights that its worker has found to load."""
        known = self._learned.get(model, Learned())
        base = max(known.base, OVERHEAD + max(reading, known.weights))
        least = min(known.context_bytes, max(SMALLEST_LEASE, (self._budget - base) // 2))
        if model in self._said:
            least = min(least, self._said[model] // 2)
            base = self._said[model] - least
        elif known.base:
            alone = max(self._budget - least, OVERHEAD + known.weights)
            base = max(min(known.base, alone), known.weights)  # what has run alone can run alone again
        load_seconds = median(known.loads) if known.loads else _UNKNOWN_LOAD
        rate = self._requests[model].decayed(now) / _HALF_LIFE if model in self._requests else 0.0
        return Need(model, base, least, load_seconds, rate, pinned=model in self._pinned)

    def pinned(self, now: float) -> tuple[Need, ...]:
        return tuple(self.of(model, now) for model in sorted(self._pinned))

    def note_request(self, model: str, now: float) -> None:
        before = self._requests.setdefault(model, _Requests(at=now))
        self._requests[model] = _Requests(before.decayed(now) + 1, now)

    def note_load(self, model: str, digest: str, weights: int, context_bytes: int) -> None:
        """``weights``: bytes; 0 if the worker does not tell."""
        known = self._learned.setdefault(model, Learned())
        if known.digest != digest:
            base = weights + OVERHEAD if weights else 0
            known = self._learned[model] = Learned(digest, known.weights, base)
        else:
            known.base = int(known.base * _DECAY)
        known.context_bytes = context_bytes

    def note_weights(self, model: str, weights: int) -> None:
        """Bytes, as an inspection of its files found."""
        self._learned.setdefault(model, Learned()).weights = weights

    def saved(self) -> dict[str, dict[str, Any]]:
        """What the next broker may go on with, as plain values."""
        return {
            model: {
                "digest": known.digest,
                "base": known.base,
                "context_bytes": known.context_bytes,
                "loads": [round(seconds, 1) for seconds in known.loads],
            }
            for model, known in self._learned.items()
            if known.digest
        }

    def restore(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """What ``saved`` made, as LearnedFile has read and checked it."""
        for model, said in saved.items():
            known = Learned(said["digest"], 0, said["base"], said["context_bytes"])
            known.loads.extend(said["loads"])
            self._learned[model] = known

    def note_load_seconds(self, model: str, seconds: float) -> None:
        self._learned.setdefault(model, Learned()).loads.append(seconds)

    def known_base(self, model: str) -> int:
        """0: nothing is known of it."""
        return self._learned[model].base if model in self._learned else 0

    def unlearn(self, model: str, base: int) -> None:
        """What has been learned beyond ``base`` was growth, and no need."""
        known = self._learned.setdefault(model, Learned())
        known.base = min(known.base, base)

    def note_base(self, model: str, base: int) -> None:
        known = self._learned.setdefault(model, Learned())
        known.base = max(known.base, base)
