"""Splits an operation between two cores, because MLX uses several cores only for matrix products (through the BLAS).

Half of the rows is computed on a second MLX stream, which has its own thread.
Rule 1: each row's result is bit-identical to that of one call.
Rule 2: a process whose share is one core makes one call.
Rule 3: callers split only operations that are large enough to gain.
"""

import threading
from collections.abc import Callable

import mlx.core as mx

from workers.engine.cpu.blas import threads

_own = threading.local()


def on_two_cores(compute: Callable[[slice], mx.array], rows: int) -> mx.array:
    """Calls ``compute`` with slices of ``rows`` and concatenates the results along their first axis."""
    if rows < 2 or threads() < 2:
        return compute(slice(None))
    with mx.stream(second_stream()):
        first = compute(slice(rows // 2))
    return mx.concatenate([first, compute(slice(rows // 2, None))])


def second_stream() -> mx.Stream:
    """Of the calling thread. What it has computed may hold its inputs a moment longer than their result is awaited."""
    if not hasattr(_own, "stream"):
        _own.stream = mx.new_stream(mx.cpu)
    stream: mx.Stream = _own.stream
    return stream
