"""What the api processes have counted, each for itself, added up for whoever asks for metrics. Pure.

Rule 1: a process sends its sums since it started, so that one that is heard twice, or again, is not counted twice.
Rule 2: what an ended process has counted stays in the total, for as long as this broker lives.
"""

from collections.abc import Iterable, Mapping

_DEPARTED = 64  # processes that may come back under their name; beyond, the oldest of them are ended for good

Sums = Mapping[str, float]


class ApiFigures:
    def __init__(self) -> None:
        self._of: dict[str, Sums] = {}  # by api
        self._departed: dict[str, Sums] = {}
        self._ended: Sums = {}

    def hear(self, api: str, sums: Sums) -> None:
        self._departed.pop(api, None)
        self._of[api] = sums

    def forget(self, api: str) -> None:
        if (sums := self._of.pop(api, None)) is None:
            return
        self._departed[api] = sums
        if len(self._departed) > _DEPARTED:
            oldest = next(iter(self._departed))
            self._ended = _added([self._ended, self._departed.pop(oldest)])

    def total(self) -> dict[str, float]:
        return _added([self._ended, *self._departed.values(), *self._of.values()])


def _added(many: Iterable[Sums]) -> dict[str, float]:
    total: dict[str, float] = {}
    for sums in many:
        for key, value in sums.items():
            total[key] = total.get(key, 0.0) + value
    return total
