"""A part of a model: MLX's Module, for code with types, which it has not."""

from collections.abc import Callable

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten


class EncoderPart(Module):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def part_names(self) -> tuple[str, ...]:
        return tuple(self.children())  # type: ignore[no-untyped-call]


def arrays_of(model: Module) -> dict[str, mx.array]:
    """All its arrays, by the names they have in weight files."""
    parameters: Callable[[], dict[str, object]] = model.parameters
    return dict(tree_flatten(parameters()))
