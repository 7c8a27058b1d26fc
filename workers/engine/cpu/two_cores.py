"""Computes on two cores what MLX computes on one: on a CPU only its matrix products use all cores, through the BLAS.

Half of the rows is computed on a stream, and so on a thread, of its own.
Rule 1: each row's result is the same as in one piece.
Rule 2: with one core, because another model computes on the other, all is computed in one piece.
Rule 3: callers do not split what is too small to be worth it.
"""

import threading
from collections.abc import Callable

import mlx.core as mx

from workers.engine.cpu.blas import threads

_own = threading.local()


def on_two_cores(compute: Callable[[slice], mx.array], rows: int) -> mx.array:
    """``compute`` gives some of the rows, which are the first axis of the result."""
    if rows < 2 or threads() < 2:
        return compute(slice(None))
    with mx.stream(_stream()):
        first = compute(slice(rows // 2))
    return mx.concatenate([first, compute(slice(rows // 2, None))])


def _stream() -> mx.Stream:
    if not hasattr(_own, "stream"):
        _own.stream = mx.new_stream(mx.cpu)
    stream: mx.Stream = _own.stream
    return stream
