"""The embedded model with float32 weights: what both servers are given.

Our loader would unpack the 4-bit weights on a CPU by itself, mlx_lm.server would not (it decodes 6 tokens/s then); so
that the servers are compared and not the formats, both get the unpacked one.
``python -m benchmarks.float32_model CACHE_DIR`` makes it, in a process of its own, and prints its folder.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from workers.engine.cpu.blas import open_blas
from workers.model.embedded import convert_once
from workers.model.load import inspect, load

COPIED = ("generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")


def make_once(cache_dir: Path) -> Path:
    """A folder under its final name is whole."""
    packed = convert_once(cache_dir, _quiet)
    folder = cache_dir / f"{packed.name}-float32"
    if folder.is_dir():
        return folder
    draft = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    draft.mkdir()
    try:
        _write(packed, draft)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _write(packed: Path, draft: Path) -> None:
    """Read again in the end: a weight too many or too few is an error there."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    loaded = load(packed, inspect(packed), _quiet, accelerator=False)
    weights: dict[str, mx.array] = dict(tree_flatten(loaded.model.parameters()))
    mx.save_safetensors(str(draft / "model.safetensors"), weights, metadata={"format": "mlx"})
    (draft / "config.json").write_text(json.dumps(plain_config(packed / "config.json"), indent=2))
    for name in COPIED:
        if (packed / name).exists():
            shutil.copy(packed / name, draft / name)
    load(draft, inspect(draft), _quiet)


def plain_config(file: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(file.read_text())
    return {key: value for key, value in config.items() if not key.startswith("quantization")}


def _quiet(phase: str, done: int, total: int) -> None: ...


if __name__ == "__main__":
    open_blas()
    print(make_once(Path(sys.argv[1])))
