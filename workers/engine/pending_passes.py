"""The passes that were launched and whose results were not taken yet, and the seconds that each of them takes.

A device computes one pass after another. So a pass begins when it is launched or, if that is later, when the pass
before has ended: its time goes from completion to completion, and waiting for others is not counted as its own.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from workers.engine.batch import PendingStep
from workers.engine.scheduling.pass_history import Told


@dataclass
class LaunchedPass:
    """``arrays`` are there when it has ended; ``step``: the tokens it gives, if it gives any."""

    number: int
    launched: float
    arrays: Sequence[mx.array]
    told: Told | None
    step: PendingStep | None
    ended: bool = False


class PendingPasses:
    """Numbers the passes in the order in which they were launched."""

    def __init__(self) -> None:
        self._passes: deque[LaunchedPass] = deque()  # the oldest first
        self._free_since = 0.0  # when the device ended the last pass that was waited for
        self.newest = 0

    def __bool__(self) -> bool:
        return bool(self._passes)

    def now(self) -> float:
        return time.perf_counter()

    def wait(self, arrays: Sequence[mx.array]) -> None:
        mx.eval(arrays)

    def add(
        self,
        arrays: Sequence[mx.array],
        step: PendingStep | None = None,
        *,
        launched: float | None = None,
        told: Told | None = None,
    ) -> None:
        """``launched``: when, if not now."""
        self.newest += 1
        launched = self.now() if launched is None else launched
        self._passes.append(LaunchedPass(self.newest, launched, arrays, told, step))

    def land(self, through: int) -> None:
        """Waits until the passes up to this number have ended; what they give can still be taken."""
        for each in self._passes:
            if each.number <= through and not each.ended:
                self.wait(each.arrays)
                self._end(each)

    def land_all(self) -> None:
        self.land(self.newest)

    def _end(self, each: LaunchedPass) -> None:
        each.ended = True
        seconds = self.seconds_since(each.launched)
        if each.told:
            each.told(seconds)

    def seconds_since(self, began: float) -> float:
        """What a pass took that was launched then and has ended now."""
        began, self._free_since = max(began, self._free_since), self.now()
        return self._free_since - began

    def take(self, through: int) -> list[PendingStep]:
        """Waits for the passes up to this number and gives their tokens.

        Nobody waits for a pass that gives none, unless one that gives some was launched behind it.
        """
        last = max((each.number for each in self._passes if each.step and each.number <= through), default=0)
        self.land(last)
        taken = [self._passes.popleft() for each in list(self._passes) if each.number <= last]
        return [each.step for each in taken if each.step]

    def take_all(self) -> list[PendingStep]:
        """Waits for all of them."""
        self.land_all()
        steps = [each.step for each in self._passes if each.step]
        self._passes.clear()
        return steps
