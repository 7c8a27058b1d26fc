"""The one door of the cpu folder: the BLAS, the allocator, the kernels, and what they promise.

Rule 1: nothing outside of the folder imports another module of it; tests/test_architecture.py checks this.
Rule 2: importing this module imports no mlx, because the BLAS must be open before.
"""

from typing import Any

from workers.engine.cpu.allocator import give_back_freed_memory, keep_freed_memory
from workers.engine.cpu.blas import Invariance, describe_blas, open_blas, share_cores

__all__ = [
    "Invariance",
    "describe_blas",
    "give_back_freed_memory",
    "install",
    "invariance_of",
    "keep_freed_memory",
    "open_blas",
    "share_cores",
]


def install(model: Any) -> None:
    """Makes this model, and every later one of mlx-lm, compute with the kernels of this folder."""
    from workers.engine.cpu.lm_head import keep_head_in_blocks
    from workers.engine.cpu.model_patches import patch_models

    patch_models()
    keep_head_in_blocks(model)


def invariance_of(model: Any) -> Invariance:
    """Whether a sequence's numbers depend on what is computed beside it; measured with weights of the model."""
    from workers.engine.cpu.invariance import measure_invariance

    return measure_invariance(model)
