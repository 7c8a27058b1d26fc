"""Masks the tokens that grammars forbid, in the logits of the sequences that have a grammar and of no others.

A mask has one bit per token. An accelerator gets the bits and unpacks them itself: bytes of all tokens of all sequences
would be eight times as much to make and to copy for each token, and for each sequence beside one with a grammar. A CPU
unpacks them with numpy, which takes a tenth of the time of mlx there.
"""

from collections.abc import Sequence
from types import ModuleType

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint8]


class GrammarMasks:
    """``masks``: the place in the batch and the bits (bytes,), the lowest first, of each sequence with a grammar."""

    def __init__(self, masks: Sequence[tuple[int, Bits]]) -> None:
        self._rows = [row for row, _ in masks]
        self._masks = [bits for _, bits in masks]

    def applied(self, logits: mx.array, xp: ModuleType) -> mx.array:
        """``logits`` (sequences, vocabulary) without forbidden tokens. ``xp``: the library that unpacks the bits."""
        vocabulary = logits.shape[-1]
        unpack = _unpacked_on_host if xp is np else _unpacked_on_device
        allowed = unpack(self.packed(vocabulary), vocabulary)
        if len(self._rows) == logits.shape[0]:
            return mx.where(allowed, logits, -mx.inf)
        rows = mx.array(self._rows)
        masked = mx.array(logits)  # log-probabilities are of the logits as they were
        masked[rows] = mx.where(allowed, logits[rows], -mx.inf)
        return masked

    def packed(self, vocabulary: int) -> Bits:
        """Shape (sequences with a grammar, bytes); a token beyond its mask is forbidden."""
        packed = np.zeros((len(self._masks), -(-vocabulary // 8)), dtype=np.uint8)
        for row, bits in zip(packed, self._masks, strict=True):
            row[: len(bits)] = bits[: len(row)]
        return packed


def _unpacked_on_host(bits: Bits, vocabulary: int) -> mx.array:
    return mx.array(np.unpackbits(bits, axis=1, count=vocabulary, bitorder="little").view(np.bool_))


def _unpacked_on_device(bits: Bits, vocabulary: int) -> mx.array:
    each = (mx.array(bits)[:, :, None] >> mx.arange(8, dtype=mx.uint8)) & 1
    return each.reshape(len(bits), -1)[:, :vocabulary].astype(mx.bool_)
