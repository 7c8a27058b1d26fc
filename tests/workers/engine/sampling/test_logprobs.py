"""Prompt log-probabilities and requests with max_tokens 0, on the tiny model, compared with mlx-lm."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from shared.protocol import FinishReason, Start
from tests.jobs import job
from tests.tiny_model import make_tiny_llama
from tests.workers.engines import play
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.scripted.engine import Script, ScriptedEngine
from workers.sequence import TokenRules

PROMPT = [(11 * i) % 250 + 3 for i in range(300)]
EOS = 2


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


@pytest.fixture
def engine(loaded: LoadedModel) -> BatchEngine:
    rules = TokenRules(token_bytes(loaded.tokenizer), frozenset({EOS}))
    return BatchEngine(loaded.model, rules, vocabulary_size_of(loaded), EngineLimits(chunk=64))


def start(engine: BatchEngine, **options: Any) -> Start:
    deltas = play(engine, [job("a", **options)])["a", 0]
    assert deltas[0].start is not None
    return deltas[0].start


def directly(loaded: LoadedModel, ids: list[int]) -> Any:
    """Log-probabilities (len(ids), vocabulary), computed in one pass."""
    model: Any = loaded.model
    logits = model(mx.array([ids]), cache=make_prompt_cache(model))[0]
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def test_a_scored_prompt_has_the_models_own_logprobs(engine: BatchEngine, loaded: LoadedModel) -> None:
    entries = start(engine, prompt=PROMPT, echo=True, logprobs=3, max_tokens=0).prompt_logprobs
    expected = directly(loaded, PROMPT)
    assert entries is not None and [entry.id for entry in entries] == PROMPT[1:]
    for position, entry in enumerate(entries):
        assert entry.logprob == pytest.approx(expected[position, entry.id], abs=1e-4)
        best = sorted(expected[position], reverse=True)[:3]
        assert [other.logprob for other in entry.top] == pytest.approx(best, abs=1e-4)


def test_the_logprob_of_a_token_in_top_logprobs_is_the_same_float(engine: BatchEngine) -> None:
    entries = start(engine, prompt=PROMPT, echo=True, logprobs=20, max_tokens=0).prompt_logprobs or []
    hits = [(e.logprob, other.logprob) for e in entries for other in e.top if other.id == e.id]
    assert hits and all(one == other for one, other in hits)


def test_echo_returns_the_ids_of_the_prompt(engine: BatchEngine) -> None:
    assert start(engine, prompt=[5, 6, 7], echo=True).prompt_ids == [5, 6, 7]
    assert start(engine, prompt=[5, 6, 7]).prompt_ids is None
    assert start(engine, prompt=[5, 6, 7], echo=True).prompt_logprobs is None


def test_a_prompt_of_one_token_has_no_prompt_logprobs(engine: BatchEngine) -> None:
    assert start(engine, prompt=[5], echo=True, logprobs=1, max_tokens=0).prompt_logprobs == []


def test_a_cached_prompt_gets_the_same_prompt_logprobs_as_a_new_one(engine: BatchEngine) -> None:
    scored = [start(engine, prompt=PROMPT, echo=True, logprobs=2, max_tokens=n) for n in (0, 1)]
    assert scored[0].prompt_logprobs == scored[1].prompt_logprobs
    assert scored[1].cached_tokens == 0
    assert start(engine, prompt=PROMPT).cached_tokens == len(PROMPT) - 1


def test_max_tokens_zero_gives_one_delta_for_each_choice(engine: BatchEngine) -> None:
    deltas = play(engine, [job("a", n=3, max_tokens=0)])
    assert [len(deltas["a", choice]) for choice in range(3)] == [1, 1, 1]
    for (only,) in deltas.values():
        assert only.ids == [] and only.start and only.start.prompt_tokens == 3
        assert only.finish and only.finish.reason == FinishReason.LENGTH
        assert only.finish.completion_tokens == 0
    assert engine.report["tokens_read"] == 0


def test_choices_with_max_tokens_zero_and_prompt_logprobs_end_beside_others(engine: BatchEngine) -> None:
    jobs = [
        job("a", PROMPT, n=2, max_tokens=0, echo=True, logprobs=1),
        job("b", [5, 6, 7], max_tokens=9, ignore_eos=True),
        job("c", PROMPT[:20], max_tokens=2, echo=True, logprobs=1, ignore_eos=True),
    ]
    deltas = play(engine, jobs)
    assert [len(delta.ids) for key in [("a", 0), ("a", 1)] for delta in deltas[key]] == [0, 0]
    assert sum(len(delta.ids) for delta in deltas["b", 0]) == 9
    assert [len(d.start.prompt_logprobs or []) for d in deltas["c", 0] if d.start] == [19]


def test_prompt_logprobs_do_not_change_the_generated_tokens(engine: BatchEngine) -> None:
    full_attention = play(engine, [job("a", PROMPT, temperature=0.7, ignore_eos=True)])["a", 0]
    scored = play(engine, [job("b", PROMPT, temperature=0.7, ignore_eos=True, echo=True, logprobs=0)])["b", 0]
    assert [delta.ids for delta in scored] == [delta.ids for delta in full_attention]


def test_an_end_of_turn_token_has_a_logprob(engine: BatchEngine, loaded: LoadedModel) -> None:
    options: dict[str, Any] = {"max_tokens": 1, "echo": True, "logprobs": 1, "logit_bias": {EOS: 100.0}}
    (only,) = play(engine, [job("a", PROMPT[:20], **options)])["a", 0]
    assert only.ids == [EOS] and only.text == "" and only.logprobs is not None
    assert only.logprobs[0].id == EOS
    assert only.logprobs[0].logprob == pytest.approx(directly(loaded, PROMPT[:20])[-1, EOS], abs=1e-4)
    assert only.finish is not None and only.finish.reason == FinishReason.STOP


def test_the_scripted_engine_finishes_choices_with_max_tokens_zero_as_the_engine_does() -> None:
    engine = ScriptedEngine(Script())
    for each in [
        job("a", [5, 6, 7], n=2, max_tokens=0),
        job("b", [5, 6], max_tokens=0, echo=True, logprobs=1),
    ]:
        engine.add(each)
    outputs = [output.delta for output in engine.step()]
    assert [(delta.request_id, len(delta.ids)) for delta in outputs] == [("a", 0), ("a", 0), ("b", 0)]
    assert all(delta.finish and delta.finish.completion_tokens == 0 for delta in outputs)
    assert outputs[2].start is not None and len(outputs[2].start.prompt_logprobs or []) == 1
    assert engine.active == 0
