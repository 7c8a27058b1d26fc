"""Log-likelihoods from mlx-lm alone: no engine, no batch, no cache. Prompts as ids on stdin, in JSON; so the answer.

For each prompt and each token behind its first: the token's log-probability, and the greatest of all.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from shared.settings import Settings
from workers.engine.cpu.blas import open_blas
from workers.model.embedded import convert_once


def main() -> None:
    prompts: list[list[int]] = json.load(sys.stdin)
    open_blas()
    model = load(convert_once(Settings().cache_dir, lambda phase, done, total: None))
    json.dump([scores(model, ids) for ids in prompts], sys.stdout)


def load(folder: Path) -> Any:
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, load_model

    model: Any = load_model(folder)[0]
    model.set_dtype(mx.float32)
    dequantize_model(model)
    return model


def scores(model: Any, ids: list[int]) -> list[tuple[float, float]]:
    import mlx.core as mx

    logits = np.asarray(model(mx.array([ids]))[0, :-1]).astype(np.float64)
    logprobs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)  # MLX's own is 1e-4 off on a CPU
    own = logprobs[np.arange(len(logits)), ids[1:]]
    return list(zip(own.tolist(), logprobs.max(axis=-1).tolist(), strict=True))


if __name__ == "__main__":
    main()
