"""Spare processes: workers without a model that have imported everything, for the next model to be loaded. Pure.

Rule 1: a spare gives way to any model: no plan counts its memory, so none is refused, evicted or cut for it.
Rule 2: the next load takes one, also while it still imports: it is ahead of any new process.
Rule 3: one is started in free memory, or for leases that hold nothing; never while a model is loading or waited for.
Rule 4: one that ends by itself is tried again after a while that doubles each time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from broker.events import Action, EndSpare, Note, SpareEnded, StartSpare
from broker.memory.decisions import GB, Shrink, gb
from broker.memory.eviction import cuts
from broker.memory.ledger import Ledger

EXPECTED = GB // 2  # bytes, until one has been measured
_RETRY = 2.0  # seconds after the first that ended by itself
_LONGEST_RETRY = 300.0
_AFTER_PRESSURE = 30.0  # seconds, so that footprints that go up and down do not start one after another


@dataclass(slots=True)
class _Spare:
    """``footprint``: bytes; 0: it still imports."""

    footprint: int = 0
    ending: bool = False


class Spares:
    def __init__(self, wanted: int, name_worker: Callable[[str], str]) -> None:
        self.wanted = wanted
        self._name_worker = name_worker
        self._spares: dict[str, _Spare] = {}
        self._expected = EXPECTED
        self._failures = 0
        self._retry_at = 0.0

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each that there is, also of those that are ending."""
        return {name: self._size(spare) for name, spare in self._spares.items()}

    @property
    def claim(self) -> int:
        """Bytes that leases leave for spares, there or to come."""
        return max(sum(self.sizes.values()), self.wanted * self._expected)

    def take(self) -> str:
        """The one that becomes the next worker; empty: there is none."""
        name = next(iter(self._staying), "")
        self._spares.pop(name, None)
        return name

    def beside(self, taken: int) -> int:
        """Bytes of all but the next ``taken`` of them."""
        sizes = self.sizes
        return sum(sizes.values()) - sum(sizes[name] for name in self._staying[:taken])

    def hear(self, spare: str, footprint: int) -> None:
        if known := self._spares.get(spare):
            known.footprint = self._expected = footprint
            self._failures = 0

    def note_end(self, event: SpareEnded, now: float) -> Iterator[Action]:
        spare = self._spares.pop(event.spare, None)
        if spare and not spare.ending:
            delay = min(_RETRY * 2.0**self._failures, _LONGEST_RETRY)
            self._failures = min(self._failures + 1, 10)
            self._retry_at = now + delay
            yield Note(
                f"{event.spare} {event.how}; another spare process is started in {delay:g} s at the earliest"
            )

    def look(self, ledger: Ledger, now: float, *, keep: int | None, calm: bool) -> Iterator[Action | Shrink]:
        """To be asked when all else is decided.

        ``keep``: a model waits until all but so many have ended.
        ``calm``: no model is loading, or waits for memory.
        """
        left = ledger.free() - sum(self.sizes.values())
        if len(self._staying) > self.wanted:
            yield from self._give_up("fewer are wanted", now, keep=self.wanted)
        elif keep is not None:
            yield from self._give_up("a model needs its memory", now, keep=keep)
        elif left < 0 and self._staying:
            yield from self._give_up(f"{gb(-left)} are missing", now)
        elif calm and len(self._spares) < self.wanted and now >= self._retry_at:
            yield from self._begin(self._expected - left, ledger)

    def _begin(self, missing: int, ledger: Ledger) -> Iterator[Action | Shrink]:
        if missing <= 0:
            name = self._name_worker("spare")
            self._spares[name] = _Spare()
            yield StartSpare(name)
        elif not ledger.returning and missing <= sum(entry.unused for entry in ledger.entries):
            yield Shrink(cuts(ledger.entries, missing), "a spare process", f"{gb(missing)} are missing")

    def _give_up(self, why: str, now: float, *, keep: int = 0) -> Iterator[Action]:
        """All but ``keep`` of them."""
        for name in self._staying[keep:]:
            self._spares[name].ending = True
            self._retry_at = max(self._retry_at, now + _AFTER_PRESSURE)
            yield Note(f"{name} is given up: {why}")
            yield EndSpare(name)

    @property
    def _staying(self) -> list[str]:
        """The next to be taken first: those that still import come last."""
        staying = [name for name, spare in self._spares.items() if not spare.ending]
        return sorted(staying, key=lambda name: not self._spares[name].footprint)

    def _size(self, spare: _Spare) -> int:
        return spare.footprint or self._expected
