"""A model whose rows of unlike length cannot share a pass is found out at load, and answers one after another."""

import logging
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from shared.settings import Settings
from tests.jobs import job
from tests.tiny_model import Kind, make_tiny_model
from tests.workers.engines import ids, play
from workers.engine.batch_engine import BatchEngine
from workers.engine.caches import Cache, new_cache
from workers.engine.load import serve_model
from workers.engine.probe import why_alone
from workers.loader import LoadedModel, inspect, load

TOGETHER: list[Kind] = ["llama", "sliding", "recurrent", "gpt2", "experts"]
ALONE: list[Kind] = ["bigcode", "internlm3", "dynamic"]
PROMPTS = {"short": [20, 30, 40], "long": list(range(10, 90))}


def loaded(folder: Path, kind: Kind) -> LoadedModel:
    make_tiny_model(folder, kind)
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """With nothing of the engine."""
    cache, out, fed = new_cache(model), list[int](), prompt
    for _ in range(tokens):
        logits = model(mx.array([fed]), cache=cache)[0, -1]
        fed = [int(np.argmax(logits))]
        out += fed
    return out


@pytest.mark.parametrize("kind", [*TOGETHER, *ALONE])
def test_what_is_served_gives_what_the_model_gives(tmp_path: Path, kind: Kind) -> None:
    here = loaded(tmp_path / "m", kind)
    engine = serve_model(here, Settings()).engine
    assert isinstance(engine, BatchEngine)
    assert engine.rows_at_most == (Settings().max_batch_rows if kind in TOGETHER else 1)
    jobs = [job(name, prompt, temperature=0.0, ignore_eos=True) for name, prompt in PROMPTS.items()]
    played = play(engine, jobs)
    for name, prompt in PROMPTS.items():
        assert ids(played[name, 0]) == greedy(here.model, prompt, 8), name


@pytest.mark.parametrize("kind", [*TOGETHER, *ALONE])
def test_a_tiny_model_is_the_same_each_time(tmp_path: Path, kind: Kind) -> None:
    one, other = (make_tiny_model(tmp_path / name, kind) / "model.safetensors" for name in "ab")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("kind", [kind for kind in TOGETHER if kind != "experts"])  # float32 only on a CPU
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_what_rounds_coarsely_is_not_taken_for_wrong(tmp_path: Path, kind: Kind, dtype: mx.Dtype) -> None:
    model: Any = loaded(tmp_path / "m", kind).model
    model.set_dtype(dtype)
    assert why_alone(model) is None


class Spoilt:
    """A model that does something else in company."""

    def __init__(self, model: Any, change: Any) -> None:
        self._model, self._change = model, change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        logits: mx.array = self._model(tokens, cache=cache)
        return logits if tokens.shape[0] == 1 else self._change(logits)


WRONG = {
    "another row's": lambda logits: logits[::-1],
    "of a row": lambda logits: logits * mx.array([1, 0.8])[:, None, None],
    "no number": lambda logits: logits * mx.array([1, mx.nan])[:, None, None],
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_one_that_computes_something_else_in_company_is_found_out(
    tmp_path: Path, wrong: str, dtype: mx.Dtype
) -> None:
    model: Any = loaded(tmp_path / "m", "llama").model
    model.set_dtype(dtype)
    reason = why_alone(Spoilt(model, WRONG[wrong]))
    assert reason and "what none computes alone" in reason


def test_one_that_rounds_as_coarsely_alone_is_not_taken_for_wrong(tmp_path: Path) -> None:
    """Where rounding sends tokens to other experts, in company and alone."""

    class Rough(Spoilt):
        def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
            logits: mx.array = self._model(tokens, cache=cache)
            return logits + 0.15 * mx.std(logits) * mx.random.normal(logits.shape, key=next(keys))

    keys = iter(mx.random.split(mx.random.key(0), 100))
    assert why_alone(Rough(loaded(tmp_path / "m", "llama").model, None)) is None


def test_the_log_says_why_requests_are_answered_one_after_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        serve_model(loaded(tmp_path / "m", "bigcode"), Settings())
    assert "one after another: rows of unlike length fail together" in caplog.text
