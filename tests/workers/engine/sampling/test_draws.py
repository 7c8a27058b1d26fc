"""Draws of every kind give what a plain draw gives that sorts the whole vocabulary."""

from types import ModuleType
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.protocol import Sampling
from tests.marks import examples
from workers.engine.sampling import sparse, sparse_cuts
from workers.engine.sampling.candidates import Floats
from workers.engine.sampling.grammar_masks import GrammarMasks
from workers.engine.sampling.randomness import NOISE_BOUND, draw_key, gumbel, hashed, keys_array, least_hash
from workers.engine.sampling.sampler import Sampler, SequenceParameters

INDEX = 5
ROUNDING = 1e-5  # of a mass
LIBRARIES = pytest.mark.parametrize("xp", [mx, np], ids=["mlx", "numpy"])
PLENTY = settings(examples(150), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def full_attention(row: Floats, parameters: SequenceParameters, xp: ModuleType, top_p: float) -> int:
    """The reference draw: sorts the vocabulary, applies the cuts, takes the highest sum; of equal sums the lower id."""
    sampling = parameters.sampling
    if parameters.greedy:
        return int(np.argmax(row))
    scaled = row / np.float32(sampling.temperature)
    order = np.argsort(-scaled, kind="stable")
    shares = np.exp((scaled[order] - scaled[order[0]]).astype(np.float64))
    above = np.cumsum(shares) - shares
    kept = scaled[order] >= scaled[order[0]] + np.log(np.float32(max(sampling.min_p, 1e-37)))
    if sampling.top_p < 1:
        kept &= above < top_p * shares.sum()
    if sampling.top_k:
        kept &= np.arange(len(row)) < sampling.top_k
    kept[0] = True
    keys = keys_array([draw_key(sampling.seed, parameters.choice, INDEX)], xp)
    sums = scaled + np.array(gumbel(keys, xp.arange(len(row), dtype=xp.uint32)[None]))[0]
    return int(min(order[kept], key=lambda id: (-sums[id], id)))


def plainly(row: Floats, parameters: SequenceParameters, xp: ModuleType) -> set[int]:
    """The tokens that the reference draw may give; more than one where rounding decides."""
    top_p = parameters.sampling.top_p
    return {full_attention(row, parameters, xp, top_p + error) for error in (-ROUNDING, 0.0, ROUNDING)}


def drawn(rows: list[SequenceParameters], values: Floats, xp: ModuleType, allowed: Any = None) -> list[int]:
    mask = None if allowed is None else GrammarMasks(list(enumerate(np.packbits(allowed, 1, "little"))))
    tokens = Sampler(rows, xp).draw(mx.array(values), [INDEX] * len(rows), mask).tokens
    return cast(list[int], tokens.tolist())


samplings = st.builds(
    Sampling,
    seed=st.integers(0, 2**64 - 1),
    temperature=st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0, 1.5, 4.0]),
    top_p=st.sampled_from([1.0, 1.0, 0.999, 0.95, 0.6, 0.1, 0.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 7, 40, 300, 1500]),
    min_p=st.sampled_from([0.0, 0.0, 0.013, 0.31]),
)
parameters = st.builds(SequenceParameters, samplings, choice=st.integers(0, 3))


@st.composite
def logits(draw: st.DrawFn, rows: int) -> Floats:
    """Logits of small and larger vocabularies: peaked, flat, with equal values, with most tokens masked."""
    size = draw(st.sampled_from([1, 2, 17, 300, 2300, 5000, 5000, 5000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    lines = []
    for _ in range(rows):
        line = random.normal(size=size) * draw(st.sampled_from([0.0, 0.3, 1.0, 3.0, 12.0]))
        if step := draw(st.sampled_from([0.0, 0.5, 4.0])):
            line = np.round(line / step) * step
        if draw(st.booleans()):
            line[random.random(size) < draw(st.sampled_from([0.5, 0.99]))] = -np.inf
            line[random.integers(size)] = 1.0
        lines.append(line)
    return np.array(lines, dtype=np.float32)


@LIBRARIES
@PLENTY
@given(data=st.data())
def test_every_draw_equals_a_draw_from_the_sorted_vocabulary(xp: ModuleType, data: st.DataObject) -> None:
    rows = data.draw(st.lists(parameters, min_size=1, max_size=5))
    values = data.draw(logits(len(rows)))
    for i, token in enumerate(drawn(rows, values, xp)):
        assert token in plainly(values[i], rows[i], xp)


@LIBRARIES
@settings(PLENTY, max_examples=examples(60).max_examples)
@given(data=st.data())
def test_a_sequence_draws_in_a_batch_what_it_draws_alone(xp: ModuleType, data: st.DataObject) -> None:
    rows = data.draw(st.lists(parameters, min_size=2, max_size=6))
    values = data.draw(logits(len(rows)))
    alone = [drawn([row], values[i : i + 1], xp)[0] for i, row in enumerate(rows)]
    assert drawn(rows, values, xp) == alone
    assert drawn(rows[::-1], np.ascontiguousarray(values[::-1]), xp) == alone[::-1]


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 2.0, 8.0])
def test_a_sparse_draw_equals_a_draw_from_the_whole_vocabulary(temperature: float) -> None:
    random = np.random.default_rng(3)
    scaled = (random.normal(size=(8, 20_000)) * 3 / temperature).astype(np.float32)
    for index in range(40):
        keys = keys_array([draw_key(9, choice, index) for choice in range(8)], np)
        noisy = scaled + gumbel(keys, np.arange(20_000, dtype=np.uint32)[None])
        samplings = [Sampling(seed=9)] * 8
        assert sparse.draw_open(scaled, keys, samplings).tolist() == noisy.argmax(axis=-1).tolist()


@LIBRARIES
@pytest.mark.parametrize("sampling", [{"min_p": 0.31}, {"min_p": 0.31, "top_p": 0.99}])
def test_min_p_holds_where_many_tokens_can_win(xp: ModuleType, sampling: dict[str, Any]) -> None:
    values = np.random.default_rng(1).normal(size=(1, 5000)).astype(np.float32) / 3
    rows = [SequenceParameters(Sampling(seed=seed, **sampling)) for seed in range(80)]
    tokens = drawn(rows, np.repeat(values, 80, axis=0), xp)
    assert len(set(tokens)) > 70
    assert min(values[0, tokens]) >= np.max(values) + np.log(0.31)


def test_a_token_with_a_low_logit_wins_when_its_noise_is_the_loudest() -> None:
    """Seed 0 gives token 356 the loudest noise at index 18."""
    keys = keys_array([draw_key(0, 0, 18)], np)
    scaled = np.full((1, 5000), -50.0, dtype=np.float32)
    scaled[0, 7] = 0.0
    sum_of_the_best = float(gumbel(keys, np.array([[7]]))[0, 0])
    for distance, winner in [(16.5, 356), (16.7, 7)]:
        scaled[0, 356] = sum_of_the_best - distance
        assert sparse.draw_open(scaled, keys, [Sampling(seed=0)]).tolist() == [winner]


@pytest.mark.parametrize("level", [-5.0, 0.0, 3.0, 8.0, 12.0, 16.6])
def test_least_hash_misses_no_token_whose_noise_reaches_the_level(level: float) -> None:
    ids = np.arange(300_000, dtype=np.uint32)
    for index in (3, 18):
        keys = keys_array([draw_key(0, 0, index)], np)
        noise = gumbel(keys, ids[None])[0]
        found = hashed(ids, *keys[0]) >= least_hash(np.array([level]))
        assert np.all(found[noise >= level]) and np.all(noise < NOISE_BOUND)
        assert np.count_nonzero(found) <= 1.01 * np.count_nonzero(noise >= level) + 2


@LIBRARIES
@pytest.mark.parametrize(
    ("sampling", "kept"),
    [({"top_k": 3}, {0, 1, 2}), ({"top_p": 0.0015}, {0, 1, 2}), ({"top_p": 0.0, "top_k": 9}, {0})],
)
def test_a_cut_keeps_the_lower_ids_of_equal_logits(
    xp: ModuleType, sampling: dict[str, Any], kept: set[int]
) -> None:
    rows = [SequenceParameters(Sampling(seed=seed, **sampling)) for seed in range(60)]
    assert set(drawn(rows, np.zeros((60, 2000), dtype=np.float32), xp)) == kept


@LIBRARIES
def test_a_cut_that_ends_among_equal_logits_keeps_their_lower_ids(xp: ModuleType) -> None:
    """One token is best; so many are second that top_k keeps only some of them."""
    values = np.full((60, 3000), -3.0, dtype=np.float32)
    values[:, 2999] = 0.5
    values[:, 500:2500:7] = 0.0
    rows = [SequenceParameters(Sampling(seed=seed, top_k=4)) for seed in range(60)]
    assert set(drawn(rows, values, xp)) == {2999, 500, 507, 514}


@LIBRARIES
def test_a_cut_that_ends_among_a_thousand_equal_logits_keeps_their_lower_ids(xp: ModuleType) -> None:
    """300 tokens are best and 1,700 second; the cut keeps 1,000."""
    values = np.zeros(2000, dtype=np.float32)
    values[::-1][:300] = 0.5
    rows = [SequenceParameters(Sampling(seed=seed, top_k=1000)) for seed in range(60)]
    mass = 300 * np.exp(0.5)
    top_p = float((mass + 699.5) / (mass + 1700))
    rows += [SequenceParameters(Sampling(seed=seed, top_p=top_p)) for seed in range(60)]
    tokens = drawn(rows, np.repeat(values[None], 120, axis=0), xp)
    assert all(token < 700 or token >= 1700 for token in tokens)
    assert sum(token < 700 for token in tokens) > 30


@LIBRARIES
def test_only_tokens_that_the_grammar_mask_allows_are_drawn(xp: ModuleType) -> None:
    random = np.random.default_rng(1)
    allowed = random.random((5, 3000)) < 0.003
    allowed[4] = False
    allowed[4, 77] = True
    settings: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"top_k": 50}, {"temperature": 0.0}, {"top_p": 0.9}]
    rows = [SequenceParameters(Sampling(seed=3, **each)) for each in settings]
    tokens = drawn(rows, random.normal(size=(5, 3000)).astype(np.float32), xp, allowed)
    assert all(allowed[i, token] for i, token in enumerate(tokens)) and tokens[4] == 77


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("wrong", [np.nan, -np.inf, np.inf])
@pytest.mark.parametrize("sampling", [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
def test_nan_or_infinite_logits_of_a_sequence_change_no_other_sequences_draw(
    wrong: float, sampling: dict[str, Any]
) -> None:
    values = np.random.default_rng(1).normal(size=(3, 3000)).astype(np.float32)
    rows = [SequenceParameters(Sampling(seed=seed, **sampling)) for seed in range(3)]
    expected = drawn(rows, values, np)
    values[1] = wrong
    values[2, 5] = wrong
    tokens = drawn(rows, values, np)
    assert tokens[0] == expected[0] and tokens[1] < 3000
    assert tokens[2] == (5 if wrong > 0 else expected[2])


def test_top_p_sums_the_whole_vocabulary_only_for_tokens_near_the_end_of_the_nucleus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise each sequence would cost as many exponentials as the vocabulary has tokens."""
    summed = []
    monkeypatch.setattr(sparse_cuts._Cuts, "_sum", lambda self, i: summed.append(i))
    values = np.random.default_rng(1).normal(size=(32, 20_000)).astype(np.float32)
    values[:, :10] += 12
    drawn([SequenceParameters(Sampling(seed=seed, top_p=0.999)) for seed in range(32)], values, np)
    assert len(summed) < 4
