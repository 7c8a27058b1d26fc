"""What the mind is told once, at the start: limits in time, and what is new in each life of a broker."""

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
    """Also what a mind without I/O and chance cannot make up itself."""

    epoch: str
    token: str
    pid: int
    started: float
    name_worker: Callable[[str], str]  # a model's id -> a name never used before
    log_of: Callable[[str], str]  # a worker's name -> where to read what it printed
    survivors: tuple[Survivor, ...] = ()
