"""Selects the few tokens of a vocabulary that a draw or a ranking reads; for a CPU, in numpy.

Rule 1: the candidates of a row depend on that row alone.
Rule 2: equal values are ranked by id, the lower id first.
Rule 3: rows of logits are scanned one by one, because one row fits into a core's cache; the candidates of all rows are
processed together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.uint32]

NO_ID = np.uint32(0xFFFFFFFF)
COLUMNS = 1024  # a lower bound is taken from the maxima of so many columns; fastest for 50,000 tokens


@dataclass(frozen=True)
class Candidates:
    """Tokens of each row, at least one, as flat arrays ordered by row."""

    owners: NDArray[np.intp]  # the row of each token
    ids: Ids
    values: Floats
    starts: NDArray[np.intp]  # the index of each row's first token

    def sums(self, amounts: NDArray[np.generic]) -> NDArray[np.float64]:
        """The sum of ``amounts`` (tokens,) per row, in float64, where rounding hides the order of addition."""
        sums: NDArray[np.float64] = np.add.reduceat(amounts, self.starts, dtype=np.float64)
        return sums

    def winners(self, scores: Floats) -> tuple[Ids, Floats]:
        """The token with the highest score of each row, and that score."""
        maxima = np.maximum.reduceat(scores, self.starts)
        ids = np.where(scores == maxima[self.owners], self.ids, NO_ID)
        return np.minimum.reduceat(ids, self.starts), maxima

    def select(self, flags: NDArray[np.bool_]) -> "Candidates":
        """The tokens with a flag; each row must have at least one."""
        counts = np.add.reduceat(flags, self.starts, dtype=np.intp)
        return Candidates(self.owners[flags], self.ids[flags], self.values[flags], np.cumsum(counts) - counts)

    def ids_of_row(self, row: int) -> Ids:
        end = self.starts[row + 1] if row + 1 < len(self.starts) else None
        return self.ids[self.starts[row] : end]


def row_maxima(values: Floats) -> Floats:
    """The maximum of each row (rows,), always finite: NaN and infinities are replaced in ``values`` in place.

    A row with NaN must not change what the other rows of the batch draw.
    """
    found: Floats = np.max(values, axis=-1)
    for i in np.flatnonzero(~np.isfinite(found)):
        values[i] = np.nan_to_num(values[i], nan=-np.inf, posinf=1e38, neginf=-np.inf)
        if np.max(values[i]) == -np.inf:
            values[i, 0] = 0.0
        found[i] = np.max(values[i])
    return found


def above_floors(values: Floats, floors: Floats, limit: int) -> tuple[Candidates, Floats]:
    """The tokens at or above ``floors`` (rows,), and the floors, which are raised for rows with more than ``limit``.

    ``values``: (rows, vocabulary). No floor is above the maximum of its row.
    """
    floors = floors.copy()
    ids = []
    for i, row in enumerate(values):
        reach = row >= floors[i]
        if np.count_nonzero(reach) > limit:
            floors[i] = max(floors[i], lower_bound(row, limit))
            reach = row >= floors[i]
        ids.append(np.flatnonzero(reach))
    return candidates_of(values, ids), floors


def candidates_of(values: Floats, ids: Sequence[NDArray[np.generic]]) -> Candidates:
    """The candidates ``ids[i]`` of each row i."""
    counts = np.array([len(found) for found in ids])
    owners = np.repeat(np.arange(len(ids)), counts)
    return _made(values, owners, np.concatenate(ids), counts)


def group_by_row(values: Floats, owners: NDArray[np.intp], ids: Ids) -> Candidates:
    """The candidates ``ids``, each of the row in ``owners``; in any order."""
    order = np.argsort(owners, kind="stable")
    return _made(values, owners[order], ids[order], np.bincount(owners))


def _made(
    values: Floats, owners: NDArray[np.intp], ids: NDArray[np.generic], counts: NDArray[np.intp]
) -> Candidates:
    return Candidates(owners, ids.astype(np.uint32), values[owners, ids], np.cumsum(counts) - counts)


def lower_bound(row: Floats, count: int) -> np.float32:
    """A value that at least ``count`` tokens of a row reach, and few more.

    For a long row it is the ``count``-th largest of ``COLUMNS`` column maxima, which is cheap to find.
    """
    whole = len(row) - len(row) % COLUMNS
    if whole > COLUMNS >= count:
        row = row[:whole].reshape(-1, COLUMNS).max(axis=0)
    value: np.float32 = np.partition(row, len(row) - count)[len(row) - count]
    return value


def top_ids(row: Floats, count: int) -> NDArray[np.intp]:
    """The ids of the ``count`` highest values, in descending order of value."""
    ids = np.flatnonzero(~(row < lower_bound(row, count)))  # a NaN bound keeps all tokens
    return ids[np.argsort(-row[ids], kind="stable")[:count]]
