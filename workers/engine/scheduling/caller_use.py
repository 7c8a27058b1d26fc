"""How much of the machine each caller had lately: seconds of passes, of which a third is left after a minute. Pure."""

from collections.abc import Collection
from math import exp

MINUTE = 60.0  # seconds in which a use falls to a third
LITTLE = 0.01  # seconds; less is forgotten


class CallerUse:
    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._faded = 0.0  # when

    def charge(self, callers: Collection[str], seconds: float) -> None:
        """``callers``: one for each sequence of a pass, which they share evenly."""
        for caller in callers:
            self._used[caller] = self._used.get(caller, 0.0) + seconds / len(callers)

    def shown(self, now: float) -> tuple[tuple[str, float], ...]:
        """Seconds by caller."""
        left, self._faded = exp((self._faded - now) / MINUTE), now
        faded = ((caller, used * left) for caller, used in self._used.items())
        self._used = {caller: used for caller, used in faded if used > LITTLE}
        return tuple(self._used.items())
