"""The nonlinear functions that configs name."""

import math
from collections.abc import Callable

import mlx.core as mx
from mlx.nn.layers.activations import relu, silu

from workers.device import has_accelerator
from workers.engine.cpu.install import gelu as gelu_on_cpu
from workers.model.load_error import LoadError

Activation = Callable[[mx.array], mx.array]


def gelu(x: mx.array) -> mx.array:
    if x.dtype == mx.float32 and not has_accelerator():
        return gelu_on_cpu(x)
    return x * (1 + mx.erf(x * math.sqrt(0.5))) * 0.5


def gelu_tanh(x: mx.array) -> mx.array:
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_BY_NAME: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_new": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": relu,
    "silu": silu,
    "tanh": mx.tanh,
    "identity": lambda x: x,
}


def activation(name: object) -> Activation:
    """Finds an activation by its name in a config, or by a torch class name. Raises LoadError."""
    found = _BY_NAME.get(str(name).rpartition(".")[2].lower())
    if found is None:
        known = ", ".join(_BY_NAME)
        raise LoadError(f"The model's activation {name!r:.80} is none that is known here: {known}.", True)
    return found
