"""Decides on which device MLX computes, and on how many cores; no other module does.

Rule: nothing here imports mlx before it is asked.
"""

import os

ACCELERATOR_PATH = "MLX_SERVER_ACCELERATOR_PATH"
"""A switch of tests: with ``1`` whatever is done differently for a GPU is done so on a CPU too.

Weights keep their types, MLX's own kernels compute, passes are launched ahead, keys lie token by token and MLX draws.
Slow, but the code is the one that a Mac runs.
"""


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_accelerator() -> bool:
    """Whether MLX computes on a GPU, or tests ask for what runs there."""
    if os.environ.get(ACCELERATOR_PATH) == "1":
        return True
    import mlx.core as mx

    return mx.default_device().type == mx.DeviceType.gpu
