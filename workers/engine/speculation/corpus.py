"""An index of token ids that finds where the end of a text has occurred before. Pure."""

from collections.abc import Iterable, Sequence

GRAM = 3  # ids that must be the same
LATEST = 8  # occurrences of a gram that are compared
LOOK_BACK = 32  # ids that are compared before an occurrence


class Corpus:
    """Token ids in which later ones may be looked up; it grows at its end."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self.ids: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}  # by gram: the positions behind it, ascending
        self.extend(ids)

    def extend(self, ids: Iterable[int]) -> None:
        for id in ids:
            self.ids.append(id)
            if len(self.ids) >= GRAM:
                ends = self._ends.setdefault(tuple(self.ids[-GRAM:]), [])
                ends.append(len(self.ids))
                del ends[:-LATEST]

    def find(self, tail: Sequence[int]) -> tuple[int, int]:
        """The position behind the longest occurrence of the end of ``tail``, and how many ids of it are the same.

        Of equally long ones the latest counts. (0, 0) if there is none; the end of the corpus is none.
        """
        found = (0, 0)
        for end in reversed(self._ends.get(tuple(tail[-GRAM:]), ())):
            if end < len(self.ids) and (alike := self._alike(end, tail)) > found[1]:
                found = (end, alike)
        return found

    def _alike(self, end: int, tail: Sequence[int]) -> int:
        most = min(end, len(tail), LOOK_BACK)
        return next(
            (back for back in range(most) if self.ids[end - 1 - back] != tail[len(tail) - 1 - back]), most
        )
