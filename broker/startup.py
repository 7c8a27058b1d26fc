"""What the core is told once, at the start: timeouts, and the identity of this life of the broker."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Timeouts:
    silence: float = 5.0  # of a serving worker; an api may be silent twice as long
    recovery: float = 2.0  # for workers of an earlier broker to come back, before anything is dispatched
    stall: float = 30.0  # of a busy engine; five times its slowest step if that is longer
    load: float = 120.0
    drain: float = 60.0


@dataclass(frozen=True, slots=True)
class Survivor:
    """A living worker of an earlier broker; or a worker of this one, as the next broker should know it."""

    id: str
    model: str
    pid: int
    spawned: bool
    ready: bool


@dataclass(frozen=True)
class Life:
    """What the core cannot make up itself, because it has no I/O and no chance."""

    epoch: str
    token: str
    pid: int
    started: float
    name_worker: Callable[[str], str]  # a model's id -> a name never used before
    survivors: tuple[Survivor, ...] = ()
    pulls: tuple[str, ...] = ()  # models that an earlier broker was asked to fetch
    learned: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict
    )  # of earlier brokers: what models need
