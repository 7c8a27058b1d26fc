"""What keys and values cost in bytes, per sequence and layer. Pure; ``measured_cost`` makes it for a model.

Rule 1: the prefix cache gives way first, then new prompts wait, then the youngest sequence is preempted and prefilled
again later. A request is never ended for lack of memory.
Rule 2: each sequence of an array costs as much as the longest one; headroom counts, and is given back when short.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

HEADROOM = 128  # tokens by which a sequence may grow before the budget is checked again


@dataclass(frozen=True)
class LayerCost:
    """``per_token``: bytes of each token, for at most ``window`` tokens. ``fixed``: bytes at any length.

    During a prefill pass a window also holds the whole chunk.
    """

    per_token: float
    window: int | None = None
    fixed: int = 0

    def bytes(self, tokens: int, chunk: int) -> float:
        counted = tokens if self.window is None else min(tokens, self.window + chunk)
        return self.per_token * counted + self.fixed


@dataclass(frozen=True)
class Cost:
    """What the cache of one sequence of a model costs, layer by layer."""

    layers: tuple[LayerCost, ...]

    def bytes(self, tokens: int, rows: int = 1, *, chunk: int = 0) -> int:
        return int(rows * sum(alike * layer.bytes(tokens, chunk) for layer, alike in self._kinds.items()))

    @cached_property
    def fixed(self) -> int:
        """Bytes of a sequence at any length."""
        return sum(layer.fixed for layer in self.layers)

    @cached_property
    def _kinds(self) -> Counter[LayerCost]:
        return Counter(self.layers)

    def tokens(self, size: int) -> int:
        """How long one sequence may be in ``size`` bytes; a billion where length costs nothing."""
        growing = sum(layer.per_token for layer in self.layers if layer.window is None)
        fixed = self.bytes(0) + sum(
            layer.per_token * layer.window for layer in self.layers if layer.window is not None
        )
        return max(0, int((size - fixed) / growing)) if growing else 1_000_000_000
