"""What an engine may take: sequences, memory and time."""

from dataclasses import dataclass

from workers.engine.scheduling.plan import Limits
from workers.engine.speculation.speculator import Mode


@dataclass(frozen=True)
class EngineLimits:
    rows: int = 32  # sequences decoded together; 1 for a model that ``batch_probe`` keeps alone
    chunk: int = 512  # most tokens of a prompt in one pass; three times as many of several
    max_stall: float = 0.2  # seconds that a prefill pass may stall the decoding sequences
    cache_bytes: int = 1 << 30  # of the prefix cache
    kv_bytes: int = 1 << 40  # of all keys and values, the prefix cache included
    speculation: Mode = "auto"  # auto: where it changes no bit

    def of_plans(self, *, batches: bool, pads: bool, last_logits: bool, ahead: bool) -> Limits:
        """What the scheduler keeps to. ``ahead``: a pass is collected while the next one runs."""
        return Limits(
            rows=self.rows if batches else 1,
            chunk=self.chunk,
            max_stall=self.max_stall,
            batches=batches,
            pads=pads,
            mixes=not ahead,
            last_logits=last_logits,
            holds=not ahead,
        )
