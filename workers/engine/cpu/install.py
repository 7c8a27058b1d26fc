"""The one door of the cpu folder: the BLAS, the allocator, the kernels, and what they promise.

Rule 1: nothing outside of the folder imports another module of it; tests/test_architecture.py checks this.
Rule 2: importing this module imports no mlx, because the BLAS must be open before.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from workers.engine.cpu.allocator import give_back_freed_memory, keep_freed_memory
from workers.engine.cpu.blas import Invariance, describe_blas, open_blas, share_cores

if TYPE_CHECKING:
    import mlx.core as mx

__all__ = [
    "Invariance",
    "describe_blas",
    "gelu",
    "give_back_freed_memory",
    "install",
    "invariance_of",
    "invariance_of_weights",
    "keep_freed_memory",
    "masked_attention",
    "open_blas",
    "share_cores",
]


def install(model: Any = None) -> None:
    """Makes this model, and every later one of mlx-lm or of ``mlx.nn``'s linear layers, compute with this folder's
    kernels. None: a model without a product with a vocabulary."""
    from workers.engine.cpu.lm_head import install_lm_head
    from workers.engine.cpu.model_patches import patch_models

    patch_models()
    if model is not None:
        install_lm_head(model)


def invariance_of(model: Any) -> Invariance:
    """Whether a sequence's numbers depend on what is computed beside it; measured with weights of the model."""
    from workers.engine.cpu.invariance import measure_invariance

    return measure_invariance(model)


def invariance_of_weights(weights: "Iterable[mx.array]") -> Invariance:
    """The same of linear layers with such weights, each (outputs, inputs), and of attention."""
    from workers.engine.cpu.invariance import WEIGHTS, invariance, linear_of

    return invariance(linear_of(each[: WEIGHTS // each.shape[1]]) for each in weights)


def gelu(x: "mx.array") -> "mx.array":
    """float32 of any shape."""
    from workers.engine.cpu.gelu import gelu

    return gelu(x)


def masked_attention(
    q: "mx.array", k: "mx.array", v: "mx.array", scale: float, mask: "mx.array | None"
) -> "mx.array":
    """Each (texts, heads, tokens, size), float32. ``mask``: True where a key is seen; None: everywhere."""
    from workers.engine.cpu.masked_attention import masked_attention

    return masked_attention(q, k, v, scale, mask)
