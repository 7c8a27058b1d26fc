"""What the ledger may decide about memory; each decision says in one line what is done and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf

GB = 10**9


def gb(size: float) -> str:
    return f"{size / GB:.1f} GB" if size >= GB // 10 else f"{size / 1e6:.0f} MB"


def listed(leases: Mapping[str, int]) -> str:
    return ", ".join(f"{worker} to {gb(lease)}" for worker, lease in leases.items())


@dataclass(frozen=True, slots=True)
class Start:
    """``lease``: bytes for keys and values that the new worker begins with."""

    model: str
    lease: int
    why: str

    def __str__(self) -> str:
        return f"start {self.model} with {gb(self.lease)} for keys and values: {self.why}"


@dataclass(frozen=True, slots=True)
class Evict:
    victims: tuple[str, ...]
    beneficiary: str
    why: str

    def __str__(self) -> str:
        return f"evict {', '.join(self.victims)} for {self.beneficiary}: {self.why}"


@dataclass(frozen=True, slots=True)
class Shrink:
    leases: Mapping[str, int]
    beneficiary: str
    why: str

    def __str__(self) -> str:
        return f"shrink {listed(self.leases)} for {self.beneficiary}: {self.why}"


@dataclass(frozen=True, slots=True)
class Grow:
    leases: Mapping[str, int]

    def __str__(self) -> str:
        return f"grow {listed(self.leases)}: no other has a use for it"


@dataclass(frozen=True, slots=True)
class Wait:
    """``until``: when to ask again even if nothing happens. ``closing``: workers that get nothing new meanwhile."""

    beneficiary: str
    why: str
    until: float = inf
    closing: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.beneficiary} waits: {self.why}"


@dataclass(frozen=True, slots=True)
class Never:
    """``most``: bytes that could be free for it at most. ``beside``: models with workers that are never evicted."""

    model: str
    need: int
    most: int
    budget: int
    beside: tuple[str, ...] = ()

    def __str__(self) -> str:
        beside = f" beside {', '.join(self.beside)}, which stay" if self.beside else ""
        need = ceil(self.need / 1e7) / 100  # rounded up, so that it never looks as if it fitted
        return (
            f"{self.model} can never fit: it needs {need:.2f} GB, and of the budget of {self.budget / GB:.2f} GB "
            f"{self.most // 10**7 / 100:.2f} GB can be free for it at most{beside}"
        )


Decision = Start | Evict | Shrink | Grow | Wait | Never
