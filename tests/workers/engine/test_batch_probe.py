"""A model whose sequences cannot share a pass is detected at load and answers requests one after another."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.layers.base import Module

from shared.settings import Settings
from tests.jobs import job
from tests.marks import quick_and_slow
from tests.tiny_model import VOCABULARY, Kind, make_folder, make_tiny_model
from tests.workers.engines import ids, play
from tests.zoo import config_of
from workers.engine.batch_probe import why_alone
from workers.engine.engine import BatchEngine
from workers.engine.kv.mlx_caches import Cache, new_cache
from workers.engine.probe_spans import few_tokens, fewer, span_reads
from workers.model.load import LoadedModel, inspect, load
from workers.model.load_error import LoadError
from workers.model.serve_model import serve_model

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
def test_a_model_served_alone_or_in_batches_gives_what_mlx_lm_gives(tmp_path: Path, kind: Kind) -> None:
    here = loaded(tmp_path / "m", kind)
    engine = serve_model(here, Settings()).engine
    assert isinstance(engine, BatchEngine)
    assert engine.most_sequences == (Settings().max_batch_rows if kind in TOGETHER else 1)
    jobs = [job(name, prompt, temperature=0.0, ignore_eos=True) for name, prompt in PROMPTS.items()]
    played = play(engine, jobs)
    for name, prompt in PROMPTS.items():
        assert ids(played[name, 0]) == greedy(here.model, prompt, 8), name


@pytest.mark.parametrize("kind", [*TOGETHER, *ALONE])
def test_a_tiny_test_model_has_the_same_weights_each_time(tmp_path: Path, kind: Kind) -> None:
    one, other = (make_tiny_model(tmp_path / name, kind) / "model.safetensors" for name in "ab")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("kind", [kind for kind in TOGETHER if kind != "experts"])  # float32 only on a CPU
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_the_batch_probe_accepts_a_model_that_rounds_coarsely(
    tmp_path: Path, kind: Kind, dtype: mx.Dtype
) -> None:
    model: Any = loaded(tmp_path / "m", kind).model
    model.set_dtype(dtype)
    assert why_alone(model, VOCABULARY) is None


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
    "of a row": lambda logits: logits * mx.array([1, 0.8, 1])[:, None, None],
    "no number": lambda logits: logits * mx.array([1, mx.nan, 1])[:, None, None],
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_the_batch_probe_rejects_a_model_that_computes_wrongly_in_a_batch(
    tmp_path: Path, wrong: str, dtype: mx.Dtype
) -> None:
    model: Any = loaded(tmp_path / "m", "llama").model
    model.set_dtype(dtype)
    reason = why_alone(Spoilt(model, WRONG[wrong]), VOCABULARY)
    assert reason and "what none computes alone" in reason


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return loaded(tmp_path_factory.mktemp("tiny") / "m", "llama").model


SPANS = {
    "window_size": 512,
    "sliding_window": 4096,
    "index_topk": 2048,
    "sparse_block_size": 64,
    "topk_blocks": 16,
    "original_max_position_embeddings": 8192,
    "attention_chunk_size": 8192,
    "lookback": 1024,
    "local_windows": [256, 1024],
}


@pytest.mark.parametrize(
    "where", quick_and_slow(("a part of a part",), ("itself", "its arguments", "a dictionary"))
)
@pytest.mark.parametrize("name", SPANS)
def test_the_batch_probe_rejects_a_model_that_is_wrong_only_past_a_context_length(
    llama: Any, name: str, where: str
) -> None:
    """Whatever the number is called, and wherever it is kept; and it is what it was when the probe is over."""
    value = SPANS[name]

    class Far(Spoilt):
        def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
            logits = super().__call__(tokens, cache)
            longest = vars(holder).get(name) if holder is not told else self.args[name]
            here = max(longest) if isinstance(longest, list) else longest
            return logits if tokens.shape[0] == 1 or int(mx.max(cache[0].offset)) < here else logits[::-1]

    model: Any = Far(llama, lambda logits: logits)
    told: Any = {name: value}
    holder: Any = {"itself": model, "a dictionary": told}.get(where, SimpleNamespace())
    if holder is not told:
        setattr(holder, name, value)
    model.args = SimpleNamespace(parts=[SimpleNamespace(holder=holder)]) if "part" in where else holder
    reason = why_alone(model, VOCABULARY)
    assert reason and "past its" in reason and name in reason
    assert (told[name] if holder is told else getattr(holder, name)) == value


class Counted(Spoilt):
    """Counts its passes."""

    passes = 0

    def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
        self.passes += 1
        return super().__call__(tokens, cache)


class Window(Module):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sliding_window = 4096
        self.rope_scaling = {"original_max_position_embeddings": [8192]}
        self.window_sizes = [512, 1024]


def test_a_span_in_a_dictionary_that_several_objects_share_is_found_in_each(llama: Any) -> None:
    told = {"sliding_window": 100}
    model: Any = Spoilt(llama, None)
    model.parts = [SharesArguments(told), SharesArguments(told)]
    for part in model.parts:
        with span_reads(model) as read:
            assert part.told["sliding_window"] == 100
        assert "sliding_window" in read
    with span_reads(model) as read:
        assert part.other
    assert not read


class SharesArguments:
    other = "nothing to do with lengths"

    def __init__(self, told: dict[str, int]) -> None:
        self.told = told


READS: dict[str, Any] = {
    "an attribute": lambda part: part.sliding_window,
    "its dictionary": lambda part: vars(part)["sliding_window"],
    "in a dictionary": lambda part: part.rope_scaling["original_max_position_embeddings"],
    "a list": lambda part: part.window_sizes,
    "an item": lambda part: part["window_sizes"],
}


@pytest.mark.parametrize("read", READS)
def test_a_model_is_probed_twice_only_if_its_forward_pass_reads_a_context_length(
    llama: Any, read: str
) -> None:
    class PrefillTask(Counted):
        def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
            assert READS[read](self.part)
            return super().__call__(tokens, cache)

    def passes(kind: type[Counted]) -> int:
        model: Any = kind(llama, lambda logits: logits)
        model.part = Window()
        assert why_alone(model, VOCABULARY) is None and type(model) is kind and type(model.part) is Window
        return int(model.passes)

    assert llama.args.max_position_embeddings > 4  # which is for its construction only
    once = passes(Counted)
    assert passes(PrefillTask) == 2 * once


@pytest.mark.parametrize("vocabulary", [1, 3, 41, 60])
def test_a_probe_reads_only_ids_that_the_model_has_embeddings_for(llama: Any, vocabulary: int) -> None:
    class Bounded(Spoilt):
        def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
            assert int(mx.max(tokens)) < vocabulary
            return super().__call__(tokens, cache)

    assert why_alone(Bounded(llama, lambda logits: logits), vocabulary) is None


@pytest.mark.slow
def test_a_model_whose_lists_name_tokens_it_does_not_have_is_refused_before_it_computes(
    tmp_path: Path,
) -> None:
    """phi3small blanks such logits, which ends the process."""
    config = config_of("phi3small", VOCABULARY) | {"vocab_size": VOCABULARY}
    folder = make_folder(tmp_path / "m", config)
    with pytest.raises(LoadError, match="tokenizer_ids goes up to 100351, the vocabulary has 269 tokens"):
        load(folder, inspect(folder), lambda phase, done, total: None)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_the_batch_probe_rejects_a_mask_whose_batch_axis_meets_the_head_axis(
    tmp_path: Path, groups: int
) -> None:
    """gemma2's: as many sequences as key heads fail to fail."""
    config = config_of("gemma2", VOCABULARY) | {"num_key_value_heads": groups}
    folder = make_folder(tmp_path / "m", config | {"num_attention_heads": 12, "hidden_size": 48})
    assert why_alone(load(folder, inspect(folder), lambda phase, done, total: None).model, VOCABULARY)


@pytest.mark.parametrize(
    "name", ["num_experts_per_tok", "top_k", "sliding_window_pattern", "conv_window", "moe_topk"]
)
def test_the_batch_probe_changes_only_numbers_that_count_tokens(name: str) -> None:
    assert fewer(name, 8, "MoEGate") == 8


def test_functions_compiled_during_the_batch_probe_are_not_used_for_serving() -> None:
    part = SimpleNamespace(window=100)
    compiled = mx.compile(lambda x: x * part.window)
    with few_tokens(part):
        assert compiled(mx.array(1)).item() == part.window < 100
    assert compiled(mx.array(1)).item() == part.window == 100


@pytest.mark.slow
def test_the_batch_probe_rejects_attention_blocks_that_padding_shifts(tmp_path: Path) -> None:
    """``minimax_m3_vl`` chooses among blocks of its batch's tokens, padding included."""
    config = config_of("minimax_m3_vl", VOCABULARY) | {"index_block_size": 128, "index_topk_blocks": 16}
    make_folder(tmp_path / "m", config | {"text_config": config})
    here = load(tmp_path / "m", inspect(tmp_path / "m"), lambda phase, done, total: None)
    assert "index_topk_blocks" in (why_alone(here.model, VOCABULARY) or "")


def test_the_batch_probe_accepts_a_model_that_rounds_as_coarsely_alone(tmp_path: Path) -> None:
    """Where rounding sends tokens to other experts, in company and alone."""

    class Rough(Spoilt):
        def __call__(self, tokens: mx.array, cache: Cache) -> mx.array:
            logits: mx.array = self._model(tokens, cache=cache)
            return logits + 0.15 * mx.std(logits) * mx.random.normal(logits.shape, key=next(keys))

    keys = iter(mx.random.split(mx.random.key(0), 100))
    assert why_alone(Rough(loaded(tmp_path / "m", "llama").model, None), VOCABULARY) is None


def test_the_log_says_why_requests_are_answered_one_after_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        serve_model(loaded(tmp_path / "m", "bigcode"), Settings())
    assert "one after another: sequences of unlike length fail together" in caplog.text
