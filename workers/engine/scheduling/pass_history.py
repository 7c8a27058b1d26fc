"""What the scheduler is shown of the passes so far: what they cost, and who had how much of the machine. Pure."""

from collections.abc import Callable, Sequence

from workers.engine.scheduling.caller_use import CallerUse
from workers.engine.scheduling.fairness import LEVELS, RANKS
from workers.engine.scheduling.pass_costs import PassCosts
from workers.engine.scheduling.plan import Row, Task

Told = Callable[[float], None]  # of the seconds of a pass, when it has ended


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
        """A prefill pass over these tasks has ended; ``stalled``: sequences waited for it."""
        self.prefill_launched(tasks, seconds, stalled=stalled)(seconds)

    def prefill_launched(self, tasks: Sequence[Task], believed: float, *, stalled: bool) -> Told:
        """A prefill pass counts as what it is believed to take, until what is returned is told what it took."""
        self.passes += 1
        self.read, self.decoded = believed if stalled else 0.0, 0.0
        self.read_for = min((task.priority for task in tasks), key=RANKS.__getitem__)
        number, callers = self.passes, [task.asker.caller for task in tasks]

        def ended(seconds: float) -> None:
            if stalled and self.passes == number:
                self.read = seconds
            self._use.charge(callers, seconds)

        return ended

    def decoded_for(self, rows: Sequence[Row], seconds: float) -> None:
        """A decode pass has ended, after which these sequences are left."""
        self.costs.decoded(seconds)
        self.decoded += seconds
        self._use.charge([row.asker.caller for row in rows], seconds)

    def decode_launched(self, callers: Sequence[str]) -> Told:
        """As ``prefill_launched``; ``callers``: one for each sequence in the pass."""
        believed, number = self.costs.now.decode, self.passes
        self.decoded += believed

        def ended(seconds: float) -> None:
            self.costs.decoded(seconds)
            if self.passes == number:  # no prefill pass was launched since
                self.decoded += seconds - believed
            self._use.charge(callers, seconds)

        return ended

    def used(self, now: float) -> tuple[tuple[str, float], ...]:
        """Seconds of the machine that each caller had lately."""
        return self._use.shown(now)
