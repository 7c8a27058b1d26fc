"""What can be known of a model before it is loaded: how much memory its weights take, or why it can never be loaded.

Rule 1: a child process of the broker calls it (``python -m workers --inspect``): a folder is untrusted data.
Rule 2: nothing is fetched, converted or loaded. What is not on this disk yet is absent, which is no failure.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from shared.models import EMBEDDED_EMBEDDER, ModelSource
from shared.protocol import Inspection
from workers.device import has_accelerator
from workers.encoders.loading.embedded import minilm_folder
from workers.model.embedded import converted
from workers.model.load import WEIGHTS, inspect, whole_copy
from workers.model.load_error import LoadError
from workers.model.safetensors_headers import read_header

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0")
_FLOAT32 = 4  # bytes


def inspected(source: ModelSource, cache_dir: Path, draft: ModelSource | None = None) -> Inspection:
    """``draft``: the model that guesses for this one, whose weights count as well."""
    found = _inspected(source, cache_dir)
    if draft is None or found.reason or found.absent:
        return found
    other = _inspected(draft, cache_dir)
    if other.reason:
        return other.model_copy(update={"reason": f"Its draft: {other.reason}"})
    return found.model_copy(update={"weights": found.weights + other.weights})


def _inspected(source: ModelSource, cache_dir: Path) -> Inspection:
    try:
        folder = _on_this_disk(source, cache_dir)
        if folder is None:
            return Inspection(absent=source.kind == "hub")
        facts = inspect(folder, source.allow_code)
        config = json.loads((folder / "config.json").read_bytes())
        headers = [json.loads(read_header(file)) for file in sorted(folder.glob(WEIGHTS))]
        tensors = {tensor.name: tensor for header in headers for tensor in _tensors(header)}
        size = weights_in_memory(tensors, config, has_accelerator())
        return Inspection(weights=size, architecture=facts.model_type)
    except LoadError as error:
        return Inspection(reason=error.reason, permanent=error.permanent)


def _on_this_disk(source: ModelSource, cache_dir: Path) -> Path | None:
    match source.kind:
        case "embedded" if source.id == EMBEDDED_EMBEDDER:
            return minilm_folder(lambda phase, done, total: None)
        case "embedded":
            return converted(cache_dir)
        case "folder":
            return Path(source.location)
        case _:
            return whole_copy(source.location, source.revision, source.allow_code)


@dataclass(frozen=True)
class Tensor:
    """``count`` of elements, ``size`` in bytes in its file."""

    name: str
    dtype: str
    count: int
    size: int


def _tensors(header: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors in a header that ``inspect`` has checked."""
    for name, said in header.items():
        if name != "__metadata__":
            start, end = said["data_offsets"]
            yield Tensor(name, said["dtype"], prod(said["shape"]), end - start)


def weights_in_memory(tensors: Mapping[str, Tensor], config: Mapping[str, Any], accelerator: bool) -> int:
    """Bytes. A GPU computes on the weights as they are; without one they become float32, dequantized."""
    if accelerator:
        return sum(tensor.size for tensor in tensors.values())
    said = [config.get(key) for key in ("quantization", "quantization_config")]
    quantization = next((each for each in said if isinstance(each, dict) and each), {})
    return sum(_as_float32(tensor, tensors, quantization) for tensor in tensors.values())


def _as_float32(tensor: Tensor, tensors: Mapping[str, Tensor], quantization: Mapping[str, Any]) -> int:
    layer, _, part = tensor.name.rpartition(".")
    quantized = f"{layer}.scales" in tensors
    if quantized and part in ("scales", "biases"):
        return 0  # they are gone once their layer is dequantized
    if quantized and part == "weight" and tensor.dtype == "U32":
        return tensor.count * 32 // _bits(layer, quantization) * _FLOAT32
    return tensor.count * _FLOAT32 if tensor.dtype in _FLOATS else tensor.size


def _bits(layer: str, quantization: Mapping[str, Any]) -> int:
    """The bits of one quantized weight; some models have layers with their own."""
    own = quantization.get(layer)
    said = (own if isinstance(own, dict) else quantization).get("bits", 4)
    return said if isinstance(said, int) and 1 <= said <= 32 else 4
