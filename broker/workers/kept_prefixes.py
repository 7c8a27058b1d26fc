"""Which beginnings of prompts a worker has read lately: a bounded memory of points, see `shared.prefix_path`. Pure.

It is a guess: the worker may have dropped some of them. It goes with the worker, and a new broker begins without any.
"""

from collections.abc import Sequence

MOST = 8192  # points of one worker; about a megabyte


class KeptPrefixes:
    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._points: dict[bytes, None] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._points)

    def note(self, points: Sequence[bytes]) -> None:
        for point in points:
            self._points.pop(point, None)
            self._points[point] = None
        while len(self._points) > self._most:
            del self._points[next(iter(self._points))]

    def clear(self) -> None:
        """The points do not tell whose they are, so the worker forgot a key's prompts or those of all."""
        self._points.clear()

    def depth(self, points: Sequence[bytes]) -> int:
        """How many of a prompt's points lie before the end of what it shares with a prompt that was read here."""
        return next((depth for depth in range(len(points), 0, -1) if points[depth - 1] in self._points), 0)
