"""What the scheduler is shown of the passes so far: what they cost, and who had how much of the machine. Pure."""

from collections.abc import Sequence

from workers.engine.scheduling.caller_use import CallerUse
from workers.engine.scheduling.fairness import LEVELS, RANKS
from workers.engine.scheduling.pass_costs import PassCosts
from workers.engine.scheduling.plan import Row, Task


class PassHistory:
    """``passes``: of prefill. ``read``, ``read_for``, ``decoded``: see ``View``."""

    def __init__(self, costs: PassCosts) -> None:
        self.costs = costs
        self.passes = 0
        self.read = 0.0
        self.read_for = LEVELS[0]
        self.decoded = 0.0
        self._use = CallerUse()

    def prefilled(self, tasks: Sequence[Task], seconds: float, *, stalled: bool) -> None:
        """A prefill pass over these tasks; ``stalled``: sequences waited for it."""
        self.passes += 1
        self.read, self.decoded = seconds if stalled else 0.0, 0.0
        self.read_for = min((task.priority for task in tasks), key=RANKS.__getitem__)
        self._use.charge([task.asker.caller for task in tasks], seconds)

    def decoded_for(self, rows: Sequence[Row], seconds: float) -> None:
        """A decode pass after which these sequences are left."""
        self.costs.decoded(seconds)
        self.decoded += seconds
        self._use.charge([row.asker.caller for row in rows], seconds)

    def used(self, now: float) -> tuple[tuple[str, float], ...]:
        """Seconds of the machine that each caller had lately."""
        return self._use.shown(now)
