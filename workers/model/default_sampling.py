"""How a model's makers want its tokens chosen, where a request does not say: its generation_config.json; pure.

As vLLM reads it: ``do_sample`` counts for nothing, a temperature does. What a request says wins, each parameter by
itself. What is decided here hangs on the request and the model's digest alone, so a resumed choice is drawn as before.
"""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared.protocol import Generation
from workers.model.folder import optional_json_object
from workers.model.load_error import LoadError

log = logging.getLogger(__name__)

_RANGES: dict[str, Callable[[float], bool]] = {
    "temperature": lambda value: 0 <= value <= 2,
    "top_p": lambda value: 0 < value <= 1,
    "top_k": lambda value: value == int(value) and 0 <= value < 1 << 31,
    "min_p": lambda value: 0 <= value <= 1,
    "repetition_penalty": lambda value: 0 < value <= 2,
}


def own_sampling(folder: Path) -> dict[str, float]:
    """Parameters by name; empty where there is no such file, or none that can be read, which mlx-lm forgives too."""
    try:
        config = optional_json_object(folder / "generation_config.json")
    except LoadError as error:
        log.warning("%s", error.reason)
        return {}
    return {name: float(config[name]) for name in _RANGES if _usable(name, config.get(name))}


def _usable(name: str, value: Any) -> bool:
    if value is None:
        return False
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 31
    if number and math.isfinite(value) and _RANGES[name](value):
        return True
    log.warning("generation_config.json says %s = %.50r, which cannot be and is not heeded", name, value)
    return False


def filled(generation: Generation, own: Mapping[str, float]) -> Generation:
    """What the request left open is the model's own."""
    sampling = generation.sampling
    changes = {name: own[name] for name in sampling.unsaid if name in own}
    if not changes:
        return generation
    if "top_k" in changes:
        changes["top_k"] = int(changes["top_k"])
    return generation.model_copy(update={"sampling": sampling.model_copy(update=changes)})
