"""Whether an encoder's texts are computed to the same last bit in any company, or but for rounding; measured."""

from collections.abc import Iterable, Iterator

from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear

from workers.device import has_accelerator
from workers.engine.cpu.install import Invariance, invariance_of_weights


def invariance_of_encoder(modules: Iterable[Module]) -> Invariance:
    """Measures an encoder for unpadded texts, where only matrix products mix several texts."""
    if has_accelerator():
        return "rounding"
    return invariance_of_weights({layer.weight.shape: layer.weight for layer in _linears(modules)}.values())


def _linears(modules: Iterable[Module]) -> Iterator[Linear]:
    for model in modules:
        for _, module in model.named_modules():
            if type(module) is Linear:
                yield module
