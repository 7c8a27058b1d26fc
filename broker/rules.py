"""What an operator's settings say to a broker: the rules of memory and of models' lives, and what changes in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.model_table import Replicas

UNBOUNDED = 1 << 62  # bytes


@dataclass(frozen=True)
class MemoryRules:
    """Bytes and seconds. ``lends``: whether workers are told how much they may use. ``said``: needs by model.
    ``inspects``: whether workers' program can be asked what a model would take. ``spares``: processes that wait for a
    model. ``recycle``: bytes by which a worker may grow at rest, 0: as much as it likes. ``concurrency``: requests that
    a worker of the model gets at once, where an operator bounds them. ``pythons``: by model, of those that have an
    interpreter of their own. ``hosted``: models of other servers."""

    budget: int = UNBOUNDED
    lends: bool = False
    min_stay: float = 10.0
    max_wait: float = 30.0
    said: Mapping[str, int] = field(default_factory=dict)
    pinned: frozenset[str] = frozenset()
    inspects: bool = False
    spares: int = 0
    recycle: int = 0
    pythons: Mapping[str, str] = field(default_factory=dict)
    ttl: Mapping[str, float] = field(default_factory=dict)
    replicas: Mapping[str, Replicas] = field(default_factory=dict)
    preload: tuple[str, ...] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    concurrency: Mapping[str, int] = field(default_factory=dict)
    hosted: frozenset[str] = frozenset()

    def takes_a_spare(self, model: str) -> bool:
        """Not one with an interpreter or a server of its own."""
        return model not in self.pythons and model not in self.hosted


@dataclass(frozen=True)
class Changes:
    """``models``: all that there are now. ``again``: those that are to be loaded anew. ``lines``: for the operator."""

    models: tuple[str, ...]
    rules: MemoryRules
    again: tuple[str, ...] = ()
    lines: tuple[str, ...] = field(default=("nothing has changed",))
