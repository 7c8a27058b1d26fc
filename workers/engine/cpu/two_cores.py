"""Two cores for what MLX computes on one: on a CPU only its matrix products use all of them, through the BLAS.

One half of the rows is computed on a stream, and so a thread, of its own.
Rule 1: a half computes for each row what the whole would.
Rule 2: who has one core, because another model computes on the other, computes the whole on it.
Rule 3: what is too small to be worth handing over stays whole; the callers know.
"""

import threading
from collections.abc import Callable

import mlx.core as mx

from workers.engine.cpu.blas import threads

_own = threading.local()


def in_halves(compute: Callable[[slice], mx.array], rows: int) -> mx.array:
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
