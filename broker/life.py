"""What the mind is told once, at the start: limits in time, and what is new in each life of a broker."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    silence: float = 5.0  # of a worker that serves; an api has twice as long
    load: float = 120.0
    drain: float = 60.0


@dataclass(frozen=True)
class Life:
    """Also what a mind without I/O and chance cannot make up itself."""

    epoch: str
    token: str
    pid: int
    started: float
    name_worker: Callable[[str], str]  # a model's id -> a name never used before
    log_of: Callable[[str], str]  # a worker's name -> where to read what it printed
