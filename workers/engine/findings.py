"""What passes of the model show about it and this machine before its first request.

It takes two seconds on a CPU and stays true while weights, code, libraries and processor are the same, so it is plain
data: a caller may keep it.
"""

from dataclasses import dataclass
from typing import Any

from workers.device import has_accelerator
from workers.engine.batch_probe import gives_last_logits, why_alone
from workers.engine.cpu.install import Invariance, invariance_of
from workers.engine.forward import blank, feed, feed_to_ends
from workers.engine.kv.mlx_caches import is_full_attention, new_cache
from workers.engine.scheduling.pass_costs import calibrated, calibrated_beyond_knee
from workers.engine.scheduling.plan import Costs


@dataclass(frozen=True)
class EngineFindings:
    """``alone``: what keeps sequences out of one batch. ``last_logits``: a prompt's last pass gives its first token.

    ``invariance``: how far a sequence's numbers in a batch equal those alone. ``costs``: of prefill passes; None before
    they were measured.
    """

    alone: str | None = None
    last_logits: bool = False
    invariance: Invariance = "rounding"
    costs: Costs | None = None


def find(model: Any, vocabulary_size: int) -> EngineFindings:
    """Runs passes of the model; on a CPU after the kernels were installed."""
    last_logits = shows_last_logits(model, vocabulary_size)
    return EngineFindings(
        alone=why_alone(model, vocabulary_size),
        last_logits=last_logits,
        invariance=invariance_of(model),
        costs=_costs(model, last_logits),
    )


def shows_last_logits(model: Any, vocabulary_size: int) -> bool:
    return is_full_attention(new_cache(model)) and gives_last_logits(model, vocabulary_size)


def _costs(model: Any, last_logits: bool) -> Costs:
    read = feed_to_ends if last_logits else feed
    measured = calibrated_beyond_knee if has_accelerator() else calibrated
    return measured(
        lambda behind: blank(model, behind) if behind else new_cache(model),
        lambda cache, tokens: read(model, cache, [[0] * tokens]),
        full_attention=is_full_attention(new_cache(model)),
    )
