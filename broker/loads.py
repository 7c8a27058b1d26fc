"""What each model's last load came to, and when the next may be tried.

Rule 1: only failures are remembered; a load that works wipes them.
Rule 2: a permanent failure refuses requests until the next try; after any other they wait for it.
"""

import math
from dataclasses import dataclass

_PERMANENT_HOLD = 10.0
_LONGEST_DELAY = 60.0


@dataclass(frozen=True, slots=True)
class FailedLoad:
    reason: str
    permanent: bool
    count: int
    retry_at: float

    def retry_after(self, now: float) -> int | None:
        """Whole seconds for the client; None: nothing gets better by waiting."""
        return None if self.permanent else max(1, math.ceil(self.retry_at - now))


class Loads:
    def __init__(self) -> None:
        self._failed: dict[str, FailedLoad] = {}

    def fail(self, model: str, reason: str, permanent: bool, now: float) -> FailedLoad:
        earlier = self._failed.get(model)
        count = earlier.count + 1 if earlier else 1
        delay = _PERMANENT_HOLD if permanent else backoff(count)
        failure = self._failed[model] = FailedLoad(reason, permanent, count, now + delay)
        return failure

    def work(self, model: str) -> None:
        self._failed.pop(model, None)

    def failure(self, model: str) -> FailedLoad | None:
        return self._failed.get(model)

    def refusing(self, model: str, now: float) -> FailedLoad | None:
        failure = self._failed.get(model)
        return failure if failure and failure.permanent and now < failure.retry_at else None

    def may_start(self, model: str, now: float) -> bool:
        failure = self._failed.get(model)
        return failure is None or now >= failure.retry_at


def backoff(count: int) -> float:
    """Seconds to wait after the ``count``-th failure in a row: 0, 1, 2, 4 … 60."""
    return 0.0 if count <= 1 else min(_LONGEST_DELAY, 2.0 ** min(count - 2, 6))
