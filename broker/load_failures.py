"""What each model's last load came to, and when the next may be tried.

Rule 1: only failures are remembered; a load that works wipes them.
Rule 2: a permanent failure refuses requests until the next try; after any other they wait for it.
Rule 3: many failures in a short time open the breaker: requests are refused, and one a minute tries it.
"""

import math
from dataclasses import dataclass, replace

_PERMANENT_HOLD = 10.0
_LONGEST_DELAY = 60.0
_BREAKS_AFTER = 5  # failures
_WINDOW = 600.0  # seconds


@dataclass(frozen=True, slots=True)
class FailedLoad:
    reason: str
    permanent: bool
    count: int
    retry_at: float
    times: tuple[float, ...] = ()  # of the failures of late

    @property
    def broken(self) -> bool:
        return len(self.times) >= _BREAKS_AFTER

    def retry_after(self, now: float) -> int | None:
        """Whole seconds for the client; None: nothing gets better by waiting."""
        return None if self.permanent else max(1, math.ceil(self.retry_at - now))


class Loads:
    def __init__(self) -> None:
        self._failed: dict[str, FailedLoad] = {}

    def fail(self, model: str, reason: str, permanent: bool, now: float) -> FailedLoad:
        earlier = self._failed.get(model)
        count = earlier.count + 1 if earlier else 1
        times = (*(at for at in (earlier.times if earlier else ()) if at > now - _WINDOW), now)
        failure = FailedLoad(reason, permanent, count, now + backoff(count), times)
        if permanent:
            failure = replace(failure, retry_at=now + _PERMANENT_HOLD)
        elif failure.broken:
            failure = replace(failure, retry_at=now + _LONGEST_DELAY)
        self._failed[model] = failure
        return failure

    def work(self, model: str) -> None:
        self._failed.pop(model, None)

    def failure(self, model: str) -> FailedLoad | None:
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
