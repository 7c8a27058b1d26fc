"""Grammar masks: forbidden tokens are masked in the rows with a grammar, and only bits of these rows are sent."""

from types import ModuleType

import mlx.core as mx
import numpy as np
import pytest

from shared.protocol import Sampling
from workers.engine.sampling.grammar_masks import Bits, GrammarMasks
from workers.engine.sampling.sampler import Sampler, SequenceParameters

VOCABULARY = 1003  # not a multiple of 8


def packed(flags: np.ndarray) -> Bits:
    return np.packbits(flags, bitorder="little")


@pytest.fixture
def flags() -> np.ndarray:
    return np.random.default_rng(3).random((4, VOCABULARY)) < 0.3


@pytest.mark.parametrize("xp", [mx, np])
@pytest.mark.parametrize("guided", [[0, 1, 2, 3], [2], [0, 3]])
def test_tokens_are_masked_in_rows_with_a_grammar_and_in_no_others(
    xp: ModuleType, guided: list[int], flags: np.ndarray
) -> None:
    logits = mx.random.normal((4, VOCABULARY), key=mx.random.key(1))
    before = np.array(logits)
    masked = np.array(GrammarMasks([(row, packed(flags[row])) for row in guided]).applied(logits, xp))
    free = np.ones((4, VOCABULARY), dtype=np.bool_)
    free[guided] = flags[guided]
    assert (masked == np.where(free, before, -np.inf)).all()
    assert (np.array(logits) == before).all(), "log-probabilities are of these"


@pytest.mark.parametrize("xp", [mx, np])
def test_masks_of_unlike_length_are_cut_and_filled_to_the_vocabulary(xp: ModuleType) -> None:
    short, long = np.full(3, 255, dtype=np.uint8), np.full(200, 255, dtype=np.uint8)
    masked = GrammarMasks([(0, short), (1, long)]).applied(mx.zeros((2, VOCABULARY)), xp)
    assert (masked == 0).sum(axis=1).tolist() == [24, VOCABULARY]


def test_one_bit_per_token_of_the_rows_with_a_grammar_is_sent_to_the_device(flags: np.ndarray) -> None:
    masks = GrammarMasks([(31, packed(flags[0]))])
    assert masks.packed(VOCABULARY).nbytes == -(-VOCABULARY // 8)


@pytest.mark.parametrize("xp", [mx, np])
def test_logprobs_beside_a_grammar_are_of_the_whole_vocabulary(xp: ModuleType) -> None:
    logits = mx.random.normal((2, VOCABULARY), key=mx.random.key(1))
    row = SequenceParameters(Sampling(temperature=0.0, seed=1), logprobs=3)
    only = np.zeros(VOCABULARY, dtype=np.bool_)
    only[7] = True
    drawn = Sampler([row, row], xp).draw(logits, [0, 0], GrammarMasks([(1, packed(only))]))
    assert drawn.tokens.tolist() == [mx.argmax(logits[0]).item(), 7]
    assert drawn.logprobs is not None
    best = [[id for id, _ in entry.top] for entry in drawn.logprobs.entries()]
    assert best == np.argsort(-np.array(logits), axis=1, kind="stable")[:, :3].tolist()
