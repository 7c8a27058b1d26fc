"""What the machine has for models while other programs use it too: readings in, a bound of the budget out. Pure.

Rule 1: a reading is what is available plus what our workers hold. What is available counts page cache as free, so files
    that are read or written bound nothing.
Rule 2: the bound falls when all of the last readings are well below it, to the highest of them; it rises when all are
    well above, to the lowest. So no moment decides, and nothing goes up and down with it.
"""

from collections import deque

from broker.memory.decisions import GB
from broker.rules import UNBOUNDED

READINGS = 4
STEP = GB // 2  # bytes; smaller changes are the noise of other programs
RESERVE = GB // 2  # that models leave to the machine


class MachineBound:
    def __init__(self) -> None:
        self.size = UNBOUNDED
        self._readings: deque[int] = deque(maxlen=READINGS)

    def hear(self, available: int, held: int) -> bool:
        """Bytes of one moment. Whether the bound has changed."""
        self._readings.append(max(0, available + held - RESERVE))
        if len(self._readings) < READINGS:
            return False
        highest, lowest = max(self._readings), min(self._readings)
        if highest < self.size - STEP:
            self.size = highest
        elif lowest > self.size + STEP:
            self.size = lowest
        else:
            return False
        return True

    def skip(self) -> None:
        """What our workers hold is not known at this moment, so the readings begin anew."""
        self._readings.clear()
