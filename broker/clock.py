"""The broker's clock: monotonic time without the time in which the process was stopped or starved.

A stopped broker hears no peer, so that time must not count against its peers: the clock leaves out what a turn took
beyond its plan, and every deadline moves by that much.
"""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class AwakeClock:
    def __init__(self, tolerance: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``tolerance``: seconds by which a turn may be late and still counts in full."""
        self._clock = clock
        self._tolerance = tolerance
        self._woke = clock()
        self._slept = 0.0

    def wake(self, planned: float) -> float:
        """The time now. Called once a turn; ``planned``: the seconds that the last turn was to wait at most."""
        now = self._clock()
        late = now - self._woke - planned
        if late > self._tolerance:
            log.warning("the broker was late by %.1f s: all deadlines move by that much", late)
            self._slept += late
        self._woke = now
        return now - self._slept
