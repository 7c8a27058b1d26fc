"""Texts of unlike lengths that are computed together: what works token by token sees all tokens as one long row,
attention and pooling see groups of texts side by side.

A group is padded to its longest text. With groups of equal lengths nothing is padded, and the arithmetic of a text
is the same whatever else is in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class Group:
    """``ids``, ``types``: (texts, longest) int32; what is behind a text's length is padding."""

    ids: np.ndarray
    types: np.ndarray
    lengths: tuple[int, ...]

    @property
    def is_padded(self) -> bool:
        return min(self.lengths) < max(self.lengths)

    def key_mask(self) -> mx.array:
        """(texts, longest): which tokens are the texts' own."""
        return mx.arange(self.ids.shape[1])[None] < mx.array(self.lengths)[:, None]


def group_of(texts: Sequence[Sequence[int]], types: Sequence[Sequence[int]]) -> Group:
    lengths = tuple(map(len, texts))
    return Group(_padded(texts, lengths), _padded(types, lengths), lengths)


def _padded(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> np.ndarray:
    table = np.zeros((len(rows), max(lengths)), np.int32)
    for into, row, length in zip(table, rows, lengths, strict=True):
        into[:length] = row
    return table


class Packed:
    """All tokens of all groups, padding included, as the first axis of arrays (tokens, …)."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.groups = list(groups)
        self.ids = mx.array(np.concatenate([group.ids.ravel() for group in groups]))
        self.types = mx.array(np.concatenate([group.types.ravel() for group in groups]))

    def positions(self, padding: int | None = None) -> mx.array:
        """The position of each token in its text, from 0 on.

        With ``padding`` it counts as RoBERTa does: from that id + 1 on, and without padding tokens.
        """
        return mx.array(np.concatenate([_positions(group.ids, padding).ravel() for group in self.groups]))

    def split(self, x: mx.array) -> list[mx.array]:
        """(tokens, …) -> (texts, longest, …) of each group."""
        shapes = [group.ids.shape for group in self.groups]
        ends = np.cumsum([rows * length for rows, length in shapes])[:-1].tolist()
        parts = mx.split(x, ends) if ends else [x]
        return [part.reshape(*shape, *x.shape[1:]) for part, shape in zip(parts, shapes, strict=True)]

    def joined(self, parts: Sequence[mx.array]) -> mx.array:
        """(texts, longest, …) of each group -> (tokens, …)."""
        flat = [part.reshape(-1, *part.shape[2:]) for part in parts]
        return flat[0] if len(flat) == 1 else mx.concatenate(flat)


def _positions(ids: np.ndarray, padding: int | None) -> np.ndarray:
    if padding is None:
        return np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
    counted = (ids != padding).astype(np.int32)
    positions: np.ndarray = np.cumsum(counted, axis=1, dtype=np.int32) * counted + np.int32(padding)
    return positions
