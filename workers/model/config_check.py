"""Checks the numbers of a config against the tensors in the weight files, before anything is built from them; pure.

mlx-lm builds a model from its config's numbers and compares it to the weights only then: a count of 10**9 would fill
the memory first. mlx-lm checks that config and weights fit exactly; this check refuses what cannot fit.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from workers.model.load_error import LoadError

LARGEST = (1 << 31) - 1  # dimension of an array in MLX
MOST_PARTS = 65_536  # experts, heads, groups; real models have some hundreds
SPARE_LAYERS = 64  # layers of parts whose weights a conversion left out, such as a vision tower

_INDEX = re.compile(r"(?:^|\.)(\d{1,9})(?=\.)")
_LAYERS = re.compile(r"(?:^|_)layers?$")
_PARTS = re.compile(r"(?:^|_)(?:experts?|heads|groups|blocks|codebooks|streams|depths?)$")
_SIZE = re.compile(r"(?:^|_)(?:size|dims?|rank|inner|embd|d_model|width)$")


def refuse_implausible(config: Mapping[str, Any], tensors: Iterable[str]) -> None:
    """``tensors``: the names of all tensors in the weight files. Raises LoadError."""
    layers = _layers_at_most(tensors)
    for key, number in _numbers(config):
        most = layers if _LAYERS.search(key) else _most_of(key)
        if most is not None and abs(number) > most:
            held = f"the weight files have room for {most} at most" if most == layers else f"at most {most}"
            raise LoadError(
                f"config.json says {key} = {_short(number)}, which cannot be ({held}): it is damaged or made "
                "to do harm; fetch the model again.",
                permanent=True,
            )


def _most_of(key: str) -> int | None:
    if _PARTS.search(key):
        return MOST_PARTS
    return LARGEST if _SIZE.search(key) else None


def _layers_at_most(tensors: Iterable[str]) -> int:
    """A bound for numbers of layers, from the indices in tensor names. Experts have indices too; they only raise it."""
    highest = max((int(index) for name in tensors for index in _INDEX.findall(name)), default=0)
    return min(highest + 1, 4096) + SPARE_LAYERS


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """All integers with their keys, also those of nested parts such as ``text_config``."""
    waiting: list[Mapping[str, Any]] = [config]
    while waiting:
        for key, value in waiting.pop().items():
            if isinstance(value, Mapping):
                waiting.append(value)
            elif isinstance(value, int) and not isinstance(value, bool):
                yield key, value
            elif isinstance(value, float) and value.is_integer():
                yield key, int(value)


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**15 else f"a number of {number.bit_length()} bits"
