"""What the other threads of a worker post to the link thread."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.protocol import Failure
from workers.job import Forgotten, Output, Runnable, Served


@dataclass(frozen=True)
class Loaded:
    """The model can serve.

    For the heartbeat: ``steps`` returns how many steps the engine has made, ``lease`` the serial number of its lease.
    """

    served: Served[Any]
    steps: Callable[[], int]
    lease: Callable[[], int] = lambda: 0


@dataclass(frozen=True)
class LeaseObeyed:
    """The engine keeps to a new lease; the broker waits for this word."""


@dataclass(frozen=True)
class LoadingProgress:
    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class LoadingFailed:
    reason: str
    permanent: bool
    absent: bool = False  # it has to be fetched from the hub first


@dataclass(frozen=True)
class Outputs:
    outputs: list[Output]


@dataclass(frozen=True)
class Prepared:
    job: Runnable


@dataclass(frozen=True)
class CannotRun:
    request_id: str
    attempt: int
    failure: Failure


@dataclass(frozen=True)
class EngineDone:
    """The engine thread has completed all requests and returned."""


@dataclass(frozen=True)
class PromptsGone:
    """What the broker asked to be forgotten in ``query``."""

    query: str
    forgotten: Forgotten


Posted = (
    Loaded
    | LeaseObeyed
    | LoadingProgress
    | LoadingFailed
    | Outputs
    | Prepared
    | CannotRun
    | PromptsGone
    | EngineDone
)
