"""Tokens that a draw or a ranking has to look at, out of a whole vocabulary; for a CPU, in numpy.

Rule 1: what is found in a row depends on that row alone, and not on the order in which anything finds it.
Rule 2: equal values are ranked by id, the lower one first.
Rule 3: rows of the vocabulary are gone through one by one (a row fits into a core's cache), what was found in all of
them together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.uint32]

NO_ID = np.uint32(0xFFFFFFFF)
COLUMNS = 1024  # of which the maxima are taken for a bound; the fastest number for 50,000 tokens


@dataclass(frozen=True)
class Candidates:
    """Some tokens of each row, one at least, as flat arrays: those of the first row, then those of the second."""

    owners: NDArray[np.intp]  # the row of each
    ids: Ids
    values: Floats
    starts: NDArray[np.intp]  # where the tokens of each row begin

    def sums(self, amounts: NDArray[np.generic]) -> NDArray[np.float64]:
        """Of each row; in float64, where the order of adding does not matter."""
        sums: NDArray[np.float64] = np.add.reduceat(amounts, self.starts, dtype=np.float64)
        return sums

    def winners(self, scores: Floats) -> tuple[Ids, Floats]:
        """Each row's token of the greatest score, and the score."""
        greatest = np.maximum.reduceat(scores, self.starts)
        ids = np.where(scores == greatest[self.owners], self.ids, NO_ID)
        return np.minimum.reduceat(ids, self.starts), greatest

    def only(self, flags: NDArray[np.bool_]) -> "Candidates":
        """Those with a flag, which each row has."""
        counts = np.add.reduceat(flags, self.starts, dtype=np.intp)
        return Candidates(self.owners[flags], self.ids[flags], self.values[flags], np.cumsum(counts) - counts)

    def of_row(self, row: int) -> Ids:
        end = self.starts[row + 1] if row + 1 < len(self.starts) else None
        return self.ids[self.starts[row] : end]


def greatest(values: Floats) -> Floats:
    """Of each row, and finite: what is no number or infinite is put right in ``values``, so that no other row pays."""
    found: Floats = np.max(values, axis=-1)
    for i in np.flatnonzero(~np.isfinite(found)):
        values[i] = np.nan_to_num(values[i], nan=-np.inf, posinf=1e38, neginf=-np.inf)
        if np.max(values[i]) == -np.inf:
            values[i, 0] = 0.0
        found[i] = np.max(values[i])
    return found


def nearest(values: Floats, floors: Floats, most: int) -> tuple[Candidates, Floats]:
    """The tokens at or above ``floors`` (rows,), which are raised where these would be many more than ``most``.

    ``values``: (rows, vocabulary). No row's floor is above its greatest value.
    """
    floors = floors.copy()
    ids = []
    for i, row in enumerate(values):
        reach = row >= floors[i]
        if np.count_nonzero(reach) > most:
            floors[i] = max(floors[i], bound(row, most))
            reach = row >= floors[i]
        ids.append(np.flatnonzero(reach))
    return chosen(values, ids), floors


def chosen(values: Floats, ids: Sequence[NDArray[np.generic]]) -> Candidates:
    """The tokens ``ids`` of each row."""
    counts = np.array([len(found) for found in ids])
    owners = np.repeat(np.arange(len(ids)), counts)
    return _made(values, owners, np.concatenate(ids), counts)


def listed(values: Floats, owners: NDArray[np.intp], ids: Ids) -> Candidates:
    """Tokens and the rows they are of, in any order."""
    order = np.argsort(owners, kind="stable")
    return _made(values, owners[order], ids[order], np.bincount(owners))


def _made(
    values: Floats, owners: NDArray[np.intp], ids: NDArray[np.generic], counts: NDArray[np.intp]
) -> Candidates:
    return Candidates(owners, ids.astype(np.uint32), values[owners, ids], np.cumsum(counts) - counts)


def bound(row: Floats, count: int) -> np.float32:
    """A value that ``count`` tokens of a row reach, and as a rule few more.

    Of so many columns of the row the maxima reach it.
    """
    whole = len(row) - len(row) % COLUMNS
    if whole > COLUMNS >= count:
        row = row[:whole].reshape(-1, COLUMNS).max(axis=0)
    value: np.float32 = np.partition(row, len(row) - count)[len(row) - count]
    return value


def best(row: Floats, count: int) -> NDArray[np.intp]:
    """The ids of the greatest values, the greatest first."""
    ids = np.flatnonzero(~(row < bound(row, count)))  # all, if it is no number
    return ids[np.argsort(-row[ids], kind="stable")[:count]]
