"""The time the broker has been awake.

While the process is stopped or starved its peers cannot be heard, so that time must not count against them:
this clock leaves out what a turn took beyond its plan, and with it every deadline moves.
"""

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class AwakeClock:
    def __init__(self, tolerance: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``tolerance``: a turn that is late by less is an ordinary one."""
        self._clock = clock
        self._tolerance = tolerance
        self._woke = clock()
        self._slept = 0.0

    def wake(self, planned: float) -> float:
        """The time now. Called once a turn; ``planned`` is how long the turn before meant to last at most."""
        now = self._clock()
        late = now - self._woke - planned
        if late > self._tolerance:
            log.warning("the broker was late by %.1f s: all deadlines move by that much", late)
            self._slept += late
        self._woke = now
        return now - self._slept
