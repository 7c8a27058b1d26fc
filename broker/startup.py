"""What the core is told once, at the start: timeouts, and the identity of this life of the broker."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    silence: float = 5.0  # of a worker that serves; an api has twice as long
    recovery: float = 2.0  # nothing is begun so long, while workers of an earlier broker may come back
    stall: float = 30.0  # of a busy engine, at least; it gets five times its slowest step
    load: float = 120.0
    drain: float = 60.0


@dataclass(frozen=True, slots=True)
class Survivor:
    """A worker that an earlier broker had and that still lives; or, of ours, one that the next should know."""

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
