"""Where MLX computes; the one place that decides it.

Rule: nothing here imports mlx before it is asked.
"""


def has_accelerator() -> bool:
    """Whether MLX computes on a GPU."""
    import mlx.core as mx

    return mx.default_device().type == mx.DeviceType.gpu
