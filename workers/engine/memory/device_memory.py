"""Tells MLX how much memory of the machine this process may take: what its weights take and what it was lent.

MLX's own limits are those of a process that has the machine: freed buffers up to almost all memory are kept for the
next arrays, and nothing is wired, so that the weights of a large model may be paged out. With a process for each model
the one that keeps freed buffers takes the others' memory, and processes that wire all that is recommended stop the
machine.

Rule 1: what is wired is never more than the memory limit, also between two calls, nor than the system allows.
Rule 2: limits never make an allocation fail. Beyond the memory limit MLX waits for passes that are on their way.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from workers.device import has_accelerator

log = logging.getLogger(__name__)

SCRATCH = 2 << 30  # bytes of the arrays of passes, and of layers that are copied
LEAST_POOL, MOST_POOL, SHARE_OF_POOL = (
    1 << 28,
    1 << 30,
    20,
)  # bytes of freed buffers: a twentieth, within these bounds


@dataclass(frozen=True)
class DeviceLimits:
    """In bytes. ``wired``: kept in memory by the system. ``pool``: freed buffers that are kept for the next arrays."""

    wired: int
    memory: int
    pool: int


def limits_for(weights: int, lent: int, recommended: int) -> DeviceLimits:
    """``lent``: for keys and values. ``recommended``: the most that the system lets its processes wire; 0 for none."""
    memory = weights + lent + SCRATCH
    pool = min(max(memory // SHARE_OF_POOL, LEAST_POOL), MOST_POOL)
    return DeviceLimits(min(weights + lent, recommended), memory, pool)


def memory_beside(run: Callable[[], object]) -> int:
    """The most bytes that ``run`` takes beside what is there. MLX's peak is counted anew from here on."""
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    run()
    return max(0, mx.get_peak_memory() - before)


class DeviceMemory:
    """The limits of this process, which follow its lease. It does nothing on a CPU.

    ``weights``: bytes. ``device``: MLX, or what stands for it.
    """

    def __init__(self, weights: int, device: Any = mx) -> None:
        self._weights = weights
        self._device = device
        self._now = DeviceLimits(0, 0, 0)

    def lend(self, size: int) -> None:
        """``size``: bytes for keys and values; those that were taken back have been freed."""
        if not has_accelerator():
            return
        recommended = int(self._device.device_info().get("max_recommended_working_set_size", 0))
        then = limits_for(self._weights, size, recommended)
        memory = (self._device.set_memory_limit, self._now.memory, then.memory)
        wired = (self._device.set_wired_limit, self._now.wired, then.wired)
        pool = (self._device.set_cache_limit, self._now.pool, then.pool)
        grows = then.memory >= self._now.memory
        self._set([memory, pool, wired] if grows else [wired, pool, memory])
        self._now = then

    def _set(self, limits: Sequence[tuple[Callable[[int], int], int, int]]) -> None:
        for tell, now, then in limits:
            if now == then:
                continue
            try:
                tell(then)
            except (RuntimeError, ValueError) as error:
                log.warning("MLX does not take a limit of %d bytes: %s", then, error)
