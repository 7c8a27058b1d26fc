"""The only module of the cpu folder that other folders import: BLAS, allocator, kernels and measured invariance.

Rule 1: no module outside the folder imports another module of it; tests/test_architecture.py checks this.
Rule 2: importing this module imports no mlx, because the BLAS must be opened first.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from workers.engine.cpu.allocator import give_back_freed_memory, keep_freed_memory
from workers.engine.cpu.blas import Invariance, blas_identity, describe_blas, open_blas, share_cores

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import mlx.core as mx

__all__ = [
    "Invariance",
    "blas_identity",
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
    "uninstalled",
]


def install(model: Any = None) -> None:
    """Replaces attention, activations, rope, linear layers and the lm_head with this folder's kernels.

    The replacement holds for ``model`` and each later model of mlx-lm or ``mlx.nn``. None: a model without an lm_head.
    In versions of mlx or mlx-lm that are not known the lm_head alone is replaced: see ``patches``.
    """
    from workers.engine.cpu.lm_head import install_lm_head
    from workers.engine.cpu.model_patches import patch_models

    patch_models()
    if model is not None:
        install_lm_head(model)


def uninstalled() -> "AbstractContextManager[None]":
    """Gives mlx and mlx-lm their own functions back for a while; for tests. The lm_head of a model stays."""
    from workers.engine.patches import taken_back

    return taken_back()


def invariance_of(model: Any) -> Invariance:
    """Whether a sequence's numbers in a batch equal those alone; measured with the model's own weights."""
    from workers.engine.cpu.invariance import measure_invariance

    return measure_invariance(model)


def invariance_of_weights(weights: "Iterable[mx.array]") -> Invariance:
    """Whether linear layers with these weights, each (outputs, inputs), and attention are batch-invariant."""
    from workers.engine.cpu.invariance import WEIGHTS, invariance, linear_of

    return invariance(linear_of(each[: WEIGHTS // each.shape[1]]) for each in weights)


def gelu(x: "mx.array") -> "mx.array":
    """GELU of a float32 array of any shape."""
    from workers.engine.cpu.gelu import gelu

    return gelu(x)


def masked_attention(
    q: "mx.array", k: "mx.array", v: "mx.array", scale: float, mask: "mx.array | None"
) -> "mx.array":
    """Attention of float32 arrays (texts, heads, tokens, size). ``mask``: True for visible keys, None for all."""
    from workers.engine.cpu.attention import masked_attention

    return masked_attention(q, k, v, scale, mask)
