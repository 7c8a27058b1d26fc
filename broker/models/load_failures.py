"""The failed loads of each model, and when the next load may be tried.

Rule 1: a load that works wipes the model's failures.
Rule 2: after a permanent failure requests are refused until the next try; after any other they wait for it.
Rule 3: five failures in ten minutes open the circuit breaker: requests are refused, and one a minute tries a load.
Rule 4: a reason names no path of this machine, because clients read it.
"""

import math
from dataclasses import dataclass, replace

from shared.errors import MAX_MESSAGE, without_folders

_PERMANENT_HOLD = 10.0  # seconds
_LONGEST_DELAY = 60.0
_BREAKS_AFTER = 5  # failures
_WINDOW = 600.0  # seconds


@dataclass(frozen=True, slots=True)
class FailedLoad:
    reason: str
    permanent: bool
    count: int
    retry_at: float
    times: tuple[float, ...] = ()  # of the failures within the last ten minutes

    @property
    def broken(self) -> bool:
        return len(self.times) >= _BREAKS_AFTER

    def retry_after(self, now: float) -> int | None:
        """Whole seconds for the client; None: waiting does not help."""
        return None if self.permanent else max(1, math.ceil(self.retry_at - now))


class LoadFailures:
    def __init__(self) -> None:
        self._failed: dict[str, FailedLoad] = {}

    def record(self, model: str, reason: str, permanent: bool, now: float) -> FailedLoad:
        earlier = self._failed.get(model)
        count = earlier.count + 1 if earlier else 1
        times = (*(at for at in (earlier.times if earlier else ()) if at > now - _WINDOW), now)
        failure = FailedLoad(
            without_folders(reason[:MAX_MESSAGE]), permanent, count, now + backoff(count), times
        )
        if permanent:
            failure = replace(failure, retry_at=now + _PERMANENT_HOLD)
        elif failure.broken:
            failure = replace(failure, retry_at=now + _LONGEST_DELAY)
        self._failed[model] = failure
        return failure

    def clear(self, model: str) -> None:
        self._failed.pop(model, None)

    def of(self, model: str) -> FailedLoad | None:
        return self._failed.get(model)

    def refusing(self, model: str, now: float) -> FailedLoad | None:
        failure = self._failed.get(model)
        refuses = failure and (failure.permanent or failure.broken) and now < failure.retry_at
        return failure if refuses else None

    def may_start(self, model: str, now: float) -> bool:
        failure = self._failed.get(model)
        return failure is None or now >= failure.retry_at


def backoff(count: int) -> float:
    """Seconds to wait after the ``count``-th failure in a row: 0, 1, 2, 4 … 60."""
    return 0.0 if count <= 1 else min(_LONGEST_DELAY, 2.0 ** min(count - 2, 6))
