"""Decides on which device MLX computes, and on how many cores; no other module does.

Rule: nothing here imports mlx before it is asked.
"""

import os

# A switch of tests: 1 takes the accelerator's path (one slab, passes launched ahead, draws in mlx) on a CPU too.
ACCELERATOR_PATH = "MLX_SERVER_ACCELERATOR_PATH"


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_accelerator() -> bool:
    """Whether MLX computes on a GPU, or tests ask for what runs there."""
    if os.environ.get(ACCELERATOR_PATH) == "1":
        return True
    import mlx.core as mx

    return mx.default_device().type == mx.DeviceType.gpu
