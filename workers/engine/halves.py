"""Two cores for what MLX computes on one: on a CPU only its matrix products use all of them, through the BLAS.

The activation between an MLP's products and the attention of several rows are computed in two halves, one of them on a
stream, and so a thread, of its own. With 32 rows that takes an eighth off a pass of a 135M model on two cores.
Rule 1: a half computes for each row what the whole would.
Rule 2: what is too small to be worth handing over stays whole.
"""

import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import mlx.core as mx
from mlx_lm.models import activations, base

WORTH_ATTENTION = 900_000  # queries times keys times their size; below, handing over costs more than it saves
WORTH_ACTIVATION = 20_000  # elements; with fewer, the BLAS has not left the other core yet

_attention: Callable[..., mx.array] = base.scaled_dot_product_attention
_own = threading.local()


def compute_in_halves(cores: int) -> None:
    """For all of mlx-lm's models that are imported by now."""
    if cores < 2:
        return
    ours = {
        "scaled_dot_product_attention": (base.scaled_dot_product_attention, attention),
        "swiglu": (activations.swiglu, activation(activations.swiglu)),
    }
    for name, module in list(sys.modules.items()):
        if name.startswith("mlx_lm.models.") and module not in (activations, base):
            for function, (theirs, halved) in ours.items():
                if getattr(module, function, None) is theirs:
                    setattr(module, function, halved)


def activation(whole: Callable[[mx.array, mx.array], mx.array]) -> Callable[[mx.array, mx.array], mx.array]:
    """Of one that looks at each element alone."""

    @wraps(whole)
    def halved(gate: mx.array, x: mx.array) -> mx.array:
        if gate.size < WORTH_ACTIVATION or gate.shape != x.shape:
            return whole(gate, x)
        gates, xs = gate.reshape(-1, gate.shape[-1]), x.reshape(-1, x.shape[-1])
        half = gates.shape[0] // 2
        with mx.stream(_stream()):
            first = whole(gates[:half], xs[:half])
        return mx.concatenate([first, whole(gates[half:], xs[half:])]).reshape(gate.shape)

    return halved


def attention(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    cache: Any,
    scale: float,
    mask: mx.array | str | None,
    sinks: mx.array | None = None,
) -> mx.array:
    """Queries: (rows, heads, tokens, head size), keys and values: (rows, fewer heads, more tokens, head size)."""
    rows, quantized = queries.shape[0], hasattr(cache, "bits")
    if rows < 2 or quantized or queries.size * keys.shape[2] < WORTH_ATTENTION:
        return _attention(queries, keys, values, cache, scale, mask, sinks)
    half = rows // 2
    with mx.stream(_stream()):
        first = _attention(
            queries[:half], keys[:half], values[:half], cache, scale, _of(mask, slice(half)), sinks
        )
    rest = slice(half, None)
    return mx.concatenate(
        [first, _attention(queries[rest], keys[rest], values[rest], cache, scale, _of(mask, rest), sinks)]
    )


def _of(mask: mx.array | str | None, rows: slice) -> mx.array | str | None:
    """A mask may be one for all rows, without an axis for them or with one of length 1."""
    if not isinstance(mask, mx.array) or mask.ndim < 4 or mask.shape[0] == 1:
        return mask
    return mask[rows]


def _stream() -> mx.Stream:
    if not hasattr(_own, "stream"):
        _own.stream = mx.new_stream(mx.cpu)
    stream: mx.Stream = _own.stream
    return stream
