"""What sequences behind one kept prefix take while they begin, on both paths."""

from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.llama import Model, ModelArgs

from tests.jobs import job
from tests.workers.engines import play
from workers.device import ACCELERATOR_PATH
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.engine.kv import copies
from workers.sequence import TokenRules

ROWS, TOKENS, LAYERS = 4, 1000, 8
WIDE: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64}
ONE = TOKENS * LAYERS * 4 * 64 * 2 * 4  # bytes of the keys and values of the prefix


@pytest.mark.parametrize("path", ["0", "1"])
def test_sequences_behind_one_kept_prefix_take_one_copy_each_and_little_more(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read side by side, and then written to their slots layer by layer: no layer is there twice for long."""
    monkeypatch.setenv(ACCELERATOR_PATH, path)
    # A layer's bytes: all copies of so small a model would be on their way at once.
    monkeypatch.setattr(copies, "AHEAD", ROWS * ONE // LAYERS)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "vocab_size": 300,
        "rms_norm_eps": 1e-5,
    }
    model = Model(ModelArgs(model_type="llama", num_hidden_layers=LAYERS, **sizes, **WIDE))
    mx.eval(model.parameters())
    engine = BatchEngine(model, TokenRules([b"a"] * 300, frozenset({2})), 300, EngineLimits())
    prefix = [(7 * i) % 250 + 3 for i in range(TOKENS)]
    play(engine, [job("first", prefix, max_tokens=1)])
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    answers = play(engine, [job(f"{row}", [*prefix, 5 + row, 6], max_tokens=3) for row in range(ROWS)])
    assert all(deltas[0].start and deltas[0].start.cached_tokens >= TOKENS - 1 for deltas in answers.values())
    assert mx.get_peak_memory() - before < 1.5 * ROWS * ONE
