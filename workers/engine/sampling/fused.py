"""Compiles functions of arrays on an accelerator, where each operation is otherwise a pass over all of the logits.

The noise of a draw is some twenty operations on rows * vocabulary numbers; compiled, they are two kernels. A function
stays as it is where MLX cannot compile it, or where the compiled one does not give the same bits on an example.
"""

import logging
from collections.abc import Callable, Sequence

import mlx.core as mx

from workers.device import has_accelerator

log = logging.getLogger(__name__)

Function = Callable[..., mx.array]


class Fused:
    """Calls ``function``, compiled if that works. ``example``: gives arrays to try it with, at the first call."""

    def __init__(self, function: Function, example: Callable[[], Sequence[mx.array]]) -> None:
        self._plain = function
        self._example = example
        self._chosen: Function | None = None

    def __call__(self, *arrays: mx.array) -> mx.array:
        if not has_accelerator():
            return self._plain(*arrays)
        if self._chosen is None:
            self._chosen = self._compiled_or_plain()
        return self._chosen(*arrays)

    def _compiled_or_plain(self) -> Function:
        """MLX traces a compiled function anew for each number of rows; its kernels are made once."""
        compiled: Function = mx.compile(self._plain)
        try:
            arrays = self._example()
            if mx.array_equal(compiled(*arrays), self._plain(*arrays)):
                return compiled
            why = "its results are not the same"
        except (RuntimeError, ValueError) as error:
            why = str(error)
        log.warning("%s is not compiled: %s", self._plain.__name__, why[:300])
        return self._plain
