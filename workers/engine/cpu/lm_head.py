"""Computes the lm_head on a CPU, the largest matrix product of a step.

OpenBLAS repacks the weights in every product, which takes longer than the product itself when rows are few. Here the
weights are stored in blocks of 64 outputs, which OpenBLAS multiplies without repacking. The inner dimension is split
into pieces that OpenBLAS sums without splitting, so a row's logits do not depend on the number of rows (see
``matmul``). Each of two cores computes half of the blocks. A tied embedding reads the blocks, so there is one copy.
"""

from functools import reduce
from operator import add
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.utils import tree_unflatten

from workers.engine.cpu.two_cores import on_two_cores
from workers.engine.forward import forward
from workers.engine.kv.mlx_caches import new_cache
from workers.engine.patches import replaced

BLOCK = 64  # outputs
PIECE = 320  # the longest part of the inner dimension that is summed at once
ROWS_AT_ONCE = 16  # more rows do not fit into the processor's cache
LEAST = 8192  # outputs; repacking fewer costs little


def install_lm_head(model: Any) -> None:
    """Replaces the layer of ``model`` that computes its logits, if it is a float32 Linear or Embedding."""
    heads = _lm_heads(model)
    for path, layer in model.named_modules():
        if id(layer) in heads and layer.weight.dtype == mx.float32 and layer.weight.shape[0] >= LEAST:
            model.update_modules(tree_unflatten([(path, LmHead(layer.weight, layer.get("bias")))]))


def _lm_heads(model: Any) -> set[int]:
    """The ids of linear layers with as many outputs as the vocabulary, and of an embedding that computes logits."""
    found = set()
    theirs = Embedding.as_linear

    def recorded(layer: Embedding, x: mx.array) -> mx.array:
        found.add(id(layer))
        return theirs(layer, x)  # type: ignore[no-untyped-call, no-any-return]

    with replaced(Embedding, "as_linear", recorded):
        logits = forward(model, mx.array([[0]]), new_cache(model))  # lazy: mlx computes nothing here
    linear = [layer for _, layer in model.named_modules() if type(layer) is Linear]
    return found | {id(layer) for layer in linear if layer.weight.shape[0] == logits.shape[-1]}


class LmHead(Module):
    """Replaces an ``nn.Linear``, or an ``nn.Embedding`` that also computes logits."""

    def __init__(self, weight: mx.array, bias: mx.array | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outputs, self.inner = weight.shape
        size = -(-self.inner // -(-self.inner // PIECE))
        self._starts = list(range(0, self.inner, size))
        self.pieces = [_in_blocks(weight[:, start : start + size]) for start in self._starts]
        if bias is not None:
            self.bias = bias

    @property
    def weight(self) -> mx.array:
        """The weights (outputs, inner), assembled from the blocks at each call; for models that read them once."""
        return self.first(self._outputs)

    def first(self, outputs: int) -> mx.array:
        """The weights of the first ``outputs`` outputs, or of all if there are fewer."""
        blocks = slice(-(-outputs // BLOCK))
        parts = [piece[blocks].swapaxes(-1, -2).reshape(-1, piece.shape[1]) for piece in self.pieces]
        return mx.concatenate(parts, axis=-1)[: min(outputs, self._outputs)]

    def __call__(self, x: mx.array) -> mx.array:
        """The embedding of integer ids; the logits of float activations."""
        return self._embed(x) if mx.issubdtype(x.dtype, mx.integer) else self.as_linear(x)

    def as_linear(self, x: mx.array) -> mx.array:
        rows = x.reshape(-1, x.shape[-1])
        chunks = [
            self._logits(rows[start : start + ROWS_AT_ONCE])
            for start in range(0, rows.shape[0], ROWS_AT_ONCE)
        ]
        logits = chunks[0] if len(chunks) == 1 else mx.concatenate(chunks)
        if "bias" in self:
            logits = logits + self.bias
        return logits.reshape(*x.shape[:-1], self._outputs)

    def _logits(self, x: mx.array) -> mx.array:
        """(rows, inner) -> (rows, outputs)."""
        parts = [
            mx.contiguous(x[:, start : start + piece.shape[1]])[None]
            for start, piece in zip(self._starts, self.pieces, strict=True)
        ]

        def logits_of(blocks: slice) -> mx.array:
            return reduce(add, [part @ piece[blocks] for part, piece in zip(parts, self.pieces, strict=True)])

        by_block = on_two_cores(logits_of, self.pieces[0].shape[0])
        return by_block.swapaxes(0, 1).reshape(x.shape[0], -1)[:, : self._outputs]

    def _embed(self, ids: mx.array) -> mx.array:
        block, output = ids // BLOCK, ids % BLOCK
        return mx.concatenate([piece[block, :, output] for piece in self.pieces], axis=-1)


def _in_blocks(weight: mx.array) -> mx.array:
    """(outputs, inner) -> (blocks, inner, BLOCK); zeros fill the last block."""
    outputs, inner = weight.shape
    if missing := -outputs % BLOCK:
        weight = mx.pad(weight, [(0, missing), (0, 0)])
    blocks = mx.contiguous(weight.reshape(-1, BLOCK, inner).swapaxes(-1, -2))
    mx.eval(blocks)
    return blocks
