"""The sampling parameters a model's authors recommend, from its generation_config.json; pure."""

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
    """Parameters by name; empty if the file is missing or unreadable, which mlx-lm tolerates too."""
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
    log.warning("generation_config.json says %s = %.50r, which is out of range; ignored", name, value)
    return False


def filled(generation: Generation, own: Mapping[str, float]) -> Generation:
    """The generation with the model's defaults for the sampling parameters that the request left out."""
    sampling = generation.sampling
    changes = {name: own[name] for name in sampling.unsaid if name in own}
    if not changes:
        return generation
    if "top_k" in changes:
        changes["top_k"] = int(changes["top_k"])
    return generation.model_copy(update={"sampling": sampling.model_copy(update=changes)})
