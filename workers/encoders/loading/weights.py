"""Weights of an encoder: read from safetensors, and compared by name and shape to what the model has room for.

Rule 1: a tensor that is missing, that nothing takes or that has another shape is a LoadError with its name.
Rule 2: only what is known to serve other ends is left out: heads of the pre-training, and tables of numbers 0, 1, 2, ….
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import mlx.core as mx
from mlx.nn.layers.base import Module

from workers.encoders.models.part import arrays_of
from workers.model.load_error import LoadError, Progress

M = TypeVar("M", bound=Module)

SHOWN = 3  # names in an error
_PREFIXES = re.compile(r"^(?:bert|roberta|model)\.")
_SERVES_OTHER_ENDS = re.compile(
    r"(?:^|\.)position_ids$|^(?:cls|lm_head|decoder)\.|^embeddings\.token_type_ids$"
)
_OLD_NAMES = ((".gamma", ".weight"), (".beta", ".bias"))  # of norms, in what TensorFlow wrote


def read_weights(files: Iterable[Path], dtype: mx.Dtype | None) -> dict[str, mx.array]:
    """The weights by their names in the bare model, lazily loaded and converted to ``dtype`` unless it is None."""
    bare = {_bare(name): array for name, array in raw_weights(files).items()}
    return {
        name: array if dtype is None else array.astype(dtype)
        for name, array in bare.items()
        if not _SERVES_OTHER_ENDS.search(name)
    }


def raw_weights(files: Iterable[Path]) -> dict[str, mx.array]:
    """The weights by their names in the files, lazily loaded."""
    weights: dict[str, mx.array] = {}
    for file in sorted(files):
        arrays: dict[str, mx.array] = mx.load(str(file))  # type: ignore[assignment]
        weights |= arrays
    return weights


def _bare(name: str) -> str:
    name = _PREFIXES.sub("", name)
    for old, new in _OLD_NAMES:
        name = name.removesuffix(old) + new if name.endswith(old) else name
    return name


def filled(model: M, weights: Mapping[str, mx.array], unused: str | None = None) -> M:
    """The model with these weights. ``unused``: a pattern of names that may be surplus. Raises LoadError."""
    wanted = arrays_of(model)
    spare = re.compile(unused) if unused else None
    given = {
        name: array for name, array in weights.items() if name in wanted or not (spare and spare.match(name))
    }
    if missing := sorted(wanted.keys() - given.keys()):
        raise _unlike(f"lacks {_some(missing)}")
    if surplus := sorted(given.keys() - wanted.keys()):
        raise _unlike(f"has {_some(surplus)}, which this architecture does not have")
    for name, array in given.items():
        if array.shape != wanted[name].shape:
            raise _unlike(f"has {name} of shape {array.shape}, where the config means {wanted[name].shape}")
    model.load_weights(list(given.items()))
    return model


def in_memory(model: Module, progress: Progress) -> int:
    """Reads all of it, and says how many bytes it is."""
    arrays = arrays_of(model).values()
    total, done = sum(array.nbytes for array in arrays), 0
    progress("weights", 0, total)
    for array in arrays:
        mx.eval(array)
        done += array.nbytes
        progress("weights", done, total)
    mx.clear_cache()
    return total


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _unlike(what: str) -> LoadError:
    return LoadError(
        f"The weight file {what}: config.json and weights are not of one model, or it is quantised; fetch the "
        "original.",
        permanent=True,
    )
