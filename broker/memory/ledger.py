"""The accounts of this machine's memory: what each worker is charged with, and what is free. Pure.

Rule 1: a worker is charged with what it may use, its base and its lease, or with its footprint where that is more.
Rule 2: memory on its way back is not free: a cut counts when the worker confirms its serial number, an exit when the
    process is gone, which is when its entry goes.
Rule 3: a model needs its base and the least lease; what is learned of it is the base, never a lease that it once had.
Rule 4: a pinned model has its need reserved before it is loaded, and its last worker is never a victim afterwards.
"""

from dataclasses import dataclass, replace

from broker.workers.lifecycle import State

LEAVING = frozenset({State.DRAINING, State.STOPPING, State.GONE})


@dataclass(frozen=True, slots=True)
class Need:
    """A model, in bytes and seconds. ``base``: weights and overhead; ``least_kv``: keys and values of one context."""

    model: str
    base: int
    least_kv: int
    load_seconds: float
    rate: float = 0.0  # requests a second of late
    pinned: bool = False

    @property
    def total(self) -> int:
        return self.base + self.least_kv


@dataclass(frozen=True, slots=True)
class Lease:
    """Bytes for keys and values. ``bound``: the most the worker may believe to have, while a change is on its way."""

    size: int
    bound: int
    serial: int = 0

    @classmethod
    def first(cls, size: int) -> "Lease":
        return cls(size, size)

    def tell(self, size: int) -> "Lease":
        return Lease(size, max(size, self.bound), self.serial + 1)

    def confirm(self, serial: int, obeyed: int) -> "Lease":
        """``obeyed``: what the worker keeps to, which running answers may make more than it was told.

        A confirmation of an earlier lease says nothing of a later one on its way, which may be larger.
        """
        return replace(self, bound=max(self.size, obeyed)) if serial == self.serial else self


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker reports, in bytes and of one moment. ``kv``: keys and values within its footprint.

    ``committed``: of its lease, what running answers may come to use; ``kept``: what prompts take that are kept.
    ``wanted``: the lease it could fill.
    """

    footprint: int = 0  # 0: not measured yet
    kv: int = 0
    committed: int = 0
    kept: int = 0
    wanted: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One worker process, from its start until it is gone. ``closed``: it gets no new requests.

    ``replica``: another worker of its model would go on serving if it went.
    """

    worker: str
    need: Need
    state: State
    since: float  # when it entered its state
    lease: Lease
    usage: Usage = Usage()
    running: int = 0
    waiting: int = 0  # requests queued for its model
    served: int = 0
    static: bool = False  # an operator's, who also ends it
    closed: bool = False
    replica: bool = False

    @property
    def base(self) -> int:
        return max(self.need.base, self.usage.footprint - self.usage.kv)

    @property
    def charge(self) -> int:
        return max(self.usage.footprint, self.base + self.lease.bound)

    @property
    def settled(self) -> int:
        """Its charge once all that is on its way has come back."""
        return 0 if self.leaving else self.base + self.lease.size

    @property
    def leaving(self) -> bool:
        return self.state in LEAVING

    @property
    def stays(self) -> bool:
        """Whether it may never be evicted."""
        return ((self.need.pinned and not self.replica) or self.static) and not self.leaving

    @property
    def unused(self) -> int:
        """Bytes of its lease that hold nothing."""
        return self._beyond(self.usage.committed + self.usage.kept)

    @property
    def spare(self) -> int:
        """Bytes of its lease that no running answer comes to use: what is unused, and kept prompts."""
        return self._beyond(self.usage.committed)

    def _beyond(self, used: int) -> int:
        return 0 if self.leaving else max(0, self.lease.size - max(self.need.least_kv, used))

    @property
    def worth(self) -> float:
        """Seconds of loading that its stay saves in a second, per byte."""
        return self.need.load_seconds * self.need.rate / max(1, self.charge)


@dataclass(frozen=True, slots=True)
class Ledger:
    """``pinned``: the needs of all pinned models, loaded or not. ``spares``: bytes that no lease grows into.

    Spare processes take them, and give way to any model, so nothing else here counts them.
    """

    budget: int
    min_stay: float
    entries: tuple[Entry, ...] = ()
    pinned: tuple[Need, ...] = ()
    spares: int = 0

    @property
    def charged(self) -> int:
        return sum(entry.charge for entry in self.entries)

    @property
    def returning(self) -> int:
        """Bytes that are on their way back."""
        return sum(entry.charge - entry.settled for entry in self.entries)

    def reserved(self, model: str = "") -> int:
        """For pinned models that no worker serves, other than this one, less what their last workers still have."""
        return sum(
            max(0, need.total - sum(entry.charge for entry in self.entries if entry.need.model == need.model))
            for need in self.pinned
            if need.model != model and not self.serves(need.model)
        )

    def free(self, model: str = "") -> int:
        """Negative: more is in use than there may be. ``model``: for whom."""
        return self.budget - self.charged - self.reserved(model)

    def most(self, model: str) -> int:
        """What could be free for it when everything that may go has gone."""
        fixed = sum(entry.base + entry.need.least_kv for entry in self.entries if entry.stays)
        return self.budget - fixed - self.reserved(model)

    def serves(self, model: str) -> bool:
        return any(entry.need.model == model and not entry.leaving for entry in self.entries)

    @property
    def movable(self) -> list[Entry]:
        return [entry for entry in self.entries if not (entry.stays or entry.leaving)]
