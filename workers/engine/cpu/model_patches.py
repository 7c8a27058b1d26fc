"""Replaces attention, SwiGLU, rope and linear layers in mlx-lm's models with faster ones for a CPU."""

import sys

import mlx.core as mx
from mlx.nn.layers.linear import Linear
from mlx_lm.models import activations, base

from workers.engine.cpu.attention import attention
from workers.engine.cpu.exp import swiglu
from workers.engine.cpu.matmul import linear
from workers.engine.cpu.rope import rope
from workers.engine.cpu.two_cores import on_two_cores
from workers.engine.patches import replace

WORTH_TWO_CORES = 200_000  # elements of an activation; with fewer, the BLAS still occupies the other core

_swiglu = activations.swiglu


def patch_models() -> None:
    """Patches all modules of mlx-lm that are imported; call it again after importing another model."""
    ours = {
        "scaled_dot_product_attention": (base.scaled_dot_product_attention, attention),
        "swiglu": (_swiglu, activation),
    }
    for name, module in list(sys.modules.items()):
        if name.startswith("mlx_lm.models.") and module not in (activations, base):
            for function, (theirs, faster) in ours.items():
                if getattr(module, function, None) is theirs:
                    replace(module, function, faster)
    replace(mx.fast, "rope", rope)
    replace(Linear, "__call__", linear)


def activation(gate: mx.array, x: mx.array) -> mx.array:
    """SwiGLU of equal shapes, on two cores if it is large."""
    if gate.dtype != mx.float32 or x.dtype != mx.float32:
        return _swiglu(gate, x)  # type: ignore[no-any-return]
    if gate.size < WORTH_TWO_CORES or gate.shape != x.shape:
        return swiglu(gate, x)
    gates, xs = gate.reshape(-1, gate.shape[-1]), x.reshape(-1, x.shape[-1])
    return on_two_cores(lambda some: swiglu(gates[some], xs[some]), gates.shape[0]).reshape(gate.shape)
