"""What sequences behind one kept prefix take while they begin."""

import gc
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.llama import Model, ModelArgs

from tests.jobs import job
from tests.workers.engines import play
from workers.device import ACCELERATOR_PATH
from workers.engine.cpu.install import uninstalled
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.engine.kv import copies
from workers.sequence import TokenRules

WIDE: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64}
ONE_TOKEN = 4 * 64 * 2 * 4  # bytes of the keys and values of a layer


def peak(layers: int, rows: int, lengths: int = 1, tokens: int = 1000) -> float:
    """Of the memory that rows behind one kept prefix take while they begin, in copies of the prefix by row.

    ``lengths``: how many different ones.
    """
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "vocab_size": 300,
        "rms_norm_eps": 1e-5,
    }
    model = Model(ModelArgs(model_type="llama", num_hidden_layers=layers, **sizes, **WIDE))
    mx.eval(model.parameters())
    engine = BatchEngine(model, TokenRules([b"a"] * 300, frozenset({2})), 300, EngineLimits())
    prefix = [(7 * i) % 250 + 3 for i in range(tokens)]
    play(engine, [job("first", prefix, max_tokens=1)])
    gc.collect()  # engines of other tests
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    ends = [[5 + row, 6, 7, 8, 9][: 2 + row % lengths] for row in range(rows)]
    answers = play(engine, [job(f"{row}", [*prefix, *end], max_tokens=3) for row, end in enumerate(ends)])
    assert all(deltas[0].start and deltas[0].start.cached_tokens >= tokens - 1 for deltas in answers.values())
    return (mx.get_peak_memory() - before) / (rows * layers * tokens * ONE_TOKEN)


@pytest.mark.parametrize("path", ["0", "1"])
def test_sequences_behind_one_kept_prefix_take_one_copy_each_and_little_more(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read side by side, and then written to their slots layer by layer: no layer is there twice for long."""
    monkeypatch.setenv(ACCELERATOR_PATH, path)
    # A layer's bytes: all copies of so small a model would be on their way at once.
    monkeypatch.setattr(copies, "AHEAD", 4 * 1000 * ONE_TOKEN)
    assert peak(8, 4) < 1.3


# With what follows they end around a step of the buffers.
@pytest.mark.parametrize("tokens", [1000, 1022, 1023])
@pytest.mark.parametrize(("rows", "lengths"), [(1, 1), (4, 1), (4, 3)])
def test_a_kept_prefix_is_copied_once_on_an_accelerator_where_no_other_decodes(
    rows: int, lengths: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one layer a second copy would be made while the first is there."""
    monkeypatch.setenv(ACCELERATOR_PATH, "1")
    with uninstalled():  # of a CPU's kernels, which other tests may have installed
        assert peak(1, rows, lengths, tokens) < 1.5
