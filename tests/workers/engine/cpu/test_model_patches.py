"""mlx-lm's models compute with the CPU kernels."""

import importlib
from typing import Any

import mlx.core as mx
from mlx_lm.models import activations, base

from workers.engine.cpu.attention import attention
from workers.engine.cpu.install import uninstalled
from workers.engine.cpu.model_patches import activation, patch_models
from workers.engine.cpu.rope import rope


def test_imported_mlx_lm_models_use_the_cpu_kernels() -> None:
    llama: Any = importlib.import_module("mlx_lm.models.llama")
    with uninstalled():
        assert llama.scaled_dot_product_attention is base.scaled_dot_product_attention
        assert llama.swiglu is activations.swiglu and mx.fast.rope is not rope
        patch_models()
        assert llama.scaled_dot_product_attention is attention
        assert llama.swiglu is activation and mx.fast.rope is rope


def test_activations_of_other_types_are_left_to_mlx_lm() -> None:
    gate = mx.linspace(-3, 3, 60).astype(mx.bfloat16)
    assert mx.array_equal(activation(gate, gate), activations.swiglu(gate, gate))
