"""What a hosted server logs, as lines of its worker's log. Pure: the time is a parameter.

Rule 1: what a server says never begins a line, never moves a cursor, and fills no disk: beyond BURST bytes, and RATE
bytes a second after them, lines are left out and counted.
Rule 2: whatever it says proves progress, but for the lines about our asking whether it is ready.
"""

import re

from shared.logs import LONGEST
from shared.output import printable

RATE = 64 << 10  # bytes a second
BURST = 1 << 20
MARK = "| "
_ENDS = re.compile(rb"\r\n|\n|\r")  # a bare carriage return: a progress bar


class LogLines:
    """``asked``: the paths that it is asked for until it is ready; ``said``: when it last said anything else."""

    def __init__(self, asked: tuple[str, ...], now: float) -> None:
        self._asked = tuple(path.encode() for path in asked)
        self.said = now
        self._rest = b""
        self._left = float(BURST)
        self._looked = now
        self._dropped = 0

    def take(self, piece: bytes, now: float) -> bytes:
        """What is to be written of all that came by now."""
        *lines, self._rest = _ENDS.split(self._rest + piece)
        if len(self._rest) > LONGEST:
            lines, self._rest = [*lines, self._rest], b""
        if any(not any(path in line for path in self._asked) for line in (*lines, self._rest) if line):
            self.said = now
        return b"".join(self._line(line, now) for line in lines if line)

    def end(self, now: float) -> bytes:
        """The line without an end, and what was left out."""
        self._left += BURST
        return (self._line(self._rest, now) if self._rest else b"") + self._told()

    def _line(self, line: bytes, now: float) -> bytes:
        self._left = min(BURST, self._left + (now - self._looked) * RATE)
        self._looked = now
        if self._left < LONGEST:
            self._dropped += len(line)
            return b""
        out = f"{MARK}{printable(line[:LONGEST].decode(errors='replace'))}\n".encode()
        self._left -= len(out)
        return self._told() + out

    def _told(self) -> bytes:
        dropped, self._dropped = self._dropped, 0
        return f"{MARK}… {dropped} bytes are left out here\n".encode() if dropped else b""
