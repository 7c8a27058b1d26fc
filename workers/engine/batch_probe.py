"""Whether sequences of unlike length compute in a batch what each computes alone; found at the first load.

The offset of an mlx-lm cache is a number for one sequence and an array for a batch. Some of mlx-lm's models do
arithmetic with it that holds for a number only (gpt_bigcode, internlm3, dynamic rope): in a batch they fail or give
wrong text. The probe takes the engine's steps: prefixes that were read before, the rest of the prompts in one padded
pass, a few decode steps. Where a forward pass read the length of a window, a chunk or a budget, the probe runs again
with those so small that its few tokens are past them, see ``probe_spans``.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.quantized import QuantizedEmbedding
from mlx.utils import tree_flatten

from workers.engine.forward import feed, forward
from workers.engine.kv.decode_caches import caches_for
from workers.engine.kv.mlx_caches import (
    Cache,
    can_merge,
    can_pad,
    fork,
    merge,
    new_cache,
    spans,
)
from workers.engine.probe_spans import few_tokens, span_reads

# Token ids of three sequences: gemma2 takes the batch's axis for that of its key heads, which may be two. The third has
# no prefix.
PREFIXES: tuple[list[int], ...] = ([*range(40, 51)], [60, 61], [])
RESTS = ([51, 52], [62, 63, 64, 65, 66], [10, 11, 12, 13])
EQUAL_RESTS = ([51, 52, 53], [62, 63, 64], [10, 11, 12])  # for caches that cannot be padded
STEPS = ([71, 72, 73], [81, 82, 83], [91, 92, 93])  # the ids of the decode steps
# The largest accepted error, relative to the spread of the logits, by the coarsest weight type. A sequence that is
# computed wrongly differs by most of the spread.
TOLERANCES = {mx.float32: 1e-3, mx.float16: 0.05, mx.bfloat16: 0.1}
# Rounding may select other experts. Then the error may be TIMES that of rounding one sequence alone, up to MOST.
TIMES, MOST = 8, 0.5
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def why_alone(model: Any, vocabulary_size: int) -> str | None:
    """What keeps a model's sequences out of one batch; None when nothing does."""
    if not can_merge(model):
        return "its caches cannot be merged"
    probe, where = _Probe(model, readable_ids(model, vocabulary_size)), ""
    try:
        with span_reads(model) as read:
            errors = {where: probe.error_in_batch()}
        if read:
            with few_tokens(model) as names:
                where = f" past its {', '.join(sorted(names))}"
                errors[where] = probe.error_in_batch()
    except FAILURES as failure:
        return f"sequences of unlike length fail together{where} ({type(failure).__name__}: {failure})"
    for where, error in errors.items():
        # NaN is an error too.
        if not error <= _tolerance(model) and not error <= min(TIMES * probe.rounding(), MOST):
            return f"sequences of unlike length compute together what none computes alone{where} (off by {error:.2g})"
    return None


def gives_last_logits(model: Any, vocabulary_size: int) -> bool:
    """Whether ``forward`` gives the logits of one position of this model; tried at one that is not the last."""
    ids, position = mx.array([_below(readable_ids(model, vocabulary_size), PREFIXES[0])]), 3
    try:
        shown = forward(model, ids, new_cache(model), [position])
        whole = forward(model, ids, new_cache(model))[:, position : position + 1]
        return _error(shown, whole) <= _tolerance(model)
    except FAILURES:
        return False


def readable_ids(model: Any, vocabulary_size: int) -> int:
    """How many token ids the model has embeddings for; a model may have fewer embeddings than logits."""
    tables = [m.weight.shape[0] for m in model.modules() if isinstance(m, Embedding | QuantizedEmbedding)]
    return min(vocabulary_size, max(tables, default=vocabulary_size))


class _Probe:
    def __init__(self, model: Any, ids: int) -> None:
        rests = RESTS if can_pad(model) else EQUAL_RESTS
        self._model = model
        self._prefixes, self._rests, self._steps = (
            [_below(ids, tokens) for tokens in group] for group in (PREFIXES, rests, STEPS)
        )

    def error_in_batch(self) -> float:
        """How far the logits of a batch are from those of each sequence alone."""
        caches = [new_cache(self._model) for _ in self._prefixes]
        for cache, prefix in zip(caches, self._prefixes, strict=True):
            if prefix:
                feed(self._model, cache, [prefix])
        alone = self._alone([fork(cache) for cache in caches])
        return _error(self._together(caches), alone)

    def rounding(self) -> float:
        """How far the logits of each sequence alone are apart when it is read in one pass and in several."""
        logits, caches = [], [new_cache(self._model) for _ in self._prefixes]
        for cache, prefix, rest, steps in zip(caches, self._prefixes, self._rests, self._steps, strict=True):
            ids = mx.array([[*prefix, *rest, *steps]])
            logits.append(forward(self._model, ids, new_cache(self._model))[:, -len(steps) :])
            if prefix:
                feed(self._model, cache, [prefix])
        return _error(mx.concatenate(logits), self._alone(caches))

    def _together(self, caches: list[Cache]) -> mx.array:
        """Logits (sequences, steps, vocabulary) of the batch."""
        read = merge(caches)
        feed(self._model, read, self._rests)
        decoding = caches_for(new_cache(self._model))
        done, more = (list(map(len, group)) for group in (self._prefixes, self._rests))
        decoding.join(read, spans(read, done, more))
        logits = []
        for tokens in zip(*self._steps, strict=True):
            decoding.begin()
            logits.append(forward(self._model, mx.array(tokens)[:, None], decoding.layers)[:, -1])
        return mx.stack(logits, axis=1)

    def _alone(self, caches: list[Cache]) -> mx.array:
        """Logits (sequences, steps, vocabulary) of each sequence by itself, in passes of the same tokens."""
        sequences = []
        for cache, rest, steps in zip(caches, self._rests, self._steps, strict=True):
            feed(self._model, cache, [rest])
            logits = [forward(self._model, mx.array([[token]]), cache) for token in steps]
            sequences.append(mx.concatenate(logits, axis=1))
        return mx.concatenate(sequences)


def _below(ids: int, tokens: Sequence[int]) -> list[int]:
    """An id without an embedding would read, or write, memory that is not the model's."""
    return [token % ids for token in tokens]


def _error(these: mx.array, those: mx.array) -> float:
    """The median error over the steps of the worst sequence; a single step may route to another expert by rounding."""
    these, those = these.astype(mx.float32), those.astype(mx.float32)
    spread = mx.linalg.norm(those - mx.mean(those, axis=-1, keepdims=True), axis=-1)
    errors = np.asarray(mx.linalg.norm(these - those, axis=-1) / spread)
    return float(np.median(errors, axis=1).max())  # NaN if one is


def _tolerance(model: Any) -> float:
    arrays: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    types = {array.dtype for array in arrays.values()}
    return max((TOLERANCES[type] for type in types if type in TOLERANCES), default=TOLERANCES[mx.float32])
