"""Penalties, bias and min_tokens of a batch equal a plain sum computed for each sequence alone."""

from collections import Counter
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.protocol import Generation, Sampling, Stopping, TokenPrompt
from tests.marks import examples
from workers.engine.sampling.candidates import Floats
from workers.engine.sampling.logit_processors import LogitProcessor, LogitProcessors, logit_processor_for

VOCABULARY = 40
EOS = [3, 7, 99]


def generation(min_tokens: int = 0, **sampling: Any) -> Generation:
    stopping = Stopping(min_tokens=min_tokens)
    return Generation(prompt=TokenPrompt(ids=[0]), sampling=Sampling(seed=0, **sampling), stopping=stopping)


def adjusted(
    asked: Generation, prompt: list[int], generated: list[int], values: list[float], index: int
) -> list[float]:
    """Applies the processor; the last token of ``generated`` is known to the device only."""
    processor = logit_processor_for(asked, prompt, generated[:-1], eos=[3], vocabulary=4)
    assert processor is not None
    last = mx.array(generated[-1:] or [0], dtype=mx.uint32)
    logits = mx.array([values], dtype=mx.float32)
    return cast(list[list[float]], LogitProcessors([processor]).apply(logits, [index], last).tolist())[0]


def test_presence_and_frequency_penalties_count_generated_tokens_only() -> None:
    asked = generation(presence_penalty=1.0, frequency_penalty=0.5)
    assert adjusted(asked, [0, 1], [2, 2, 1], [0, 0, 0, 0], 3) == [0, -1.5, -2.0, 0]
    assert adjusted(asked, [0, 1], [2, 1, 2], [0, 0, 0, 0], 3) == [0, -1.5, -2.0, 0]


def test_the_repetition_penalty_counts_the_prompt_too() -> None:
    assert adjusted(generation(repetition_penalty=2.0), [0], [1], [4, -4, 4, 4], 1) == [2, -8, 4, 4]


def test_logit_bias_is_added_and_end_of_sequence_is_excluded_before_min_tokens() -> None:
    asked = generation(min_tokens=2, logit_bias={1: 5.0})
    assert adjusted(asked, [], [], [0, 0, 0, 9], 1)[1:] == [5, 0, -1e9]
    assert adjusted(asked, [], [], [0, 0, 0, 9], 2)[3] == 9


def test_a_request_without_penalties_or_bias_has_no_logit_processor() -> None:
    assert logit_processor_for(generation(), [0], [], [3], 4) is None


def test_a_logit_bias_cannot_allow_a_token_that_the_model_forbids() -> None:
    asked = generation(frequency_penalty=1.0, repetition_penalty=2.0, logit_bias={2: 5.0})
    out = adjusted(asked, [1], [2, 1], [0, -np.inf, -np.inf, 0], 2)
    assert out == [0, -np.inf, -np.inf, 0]


# ---------------------------------------------------------------- rows beside each other

TokenSequence = tuple[Generation, list[int], list[int]]  # what is asked, the prompt, what is generated

asked = st.builds(
    generation,
    min_tokens=st.sampled_from([0, 0, 4]),
    presence_penalty=st.sampled_from([0.0, 0.75, -1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.25]),
    logit_bias=st.dictionaries(st.integers(0, VOCABULARY + 2), st.sampled_from([-100.0, 2.5]), max_size=4),
)
ids = st.lists(st.integers(0, VOCABULARY - 1), max_size=12)
rows = st.lists(
    st.tuples(asked, st.lists(st.integers(0, VOCABULARY + 2), max_size=9), ids), min_size=1, max_size=4
)


def full_attention(row: TokenSequence, logits: Floats, index: int) -> Floats:
    asked, prompt, generated = row
    s, out = asked.sampling, logits.copy()
    counts = Counter(generated[:index])
    for id in range(VOCABULARY):
        if s.repetition_penalty != 1 and (counts[id] or id in prompt):
            out[id] = out[id] / s.repetition_penalty if out[id] > 0 else out[id] * s.repetition_penalty
        out[id] -= s.frequency_penalty * counts[id] + s.presence_penalty * (counts[id] > 0)
        out[id] += s.logit_bias.get(id, 0)
        if index < asked.stopping.min_tokens and id in EOS:
            out[id] = -1e9
    return out


@examples(120)
@given(rows, st.integers(0, 999), st.integers(0, 2))
def test_each_sequence_of_a_batch_gets_its_own_penalties_at_every_index(
    rows: list[TokenSequence], seed: int, late: int
) -> None:
    """``late``: by how many steps the host learns of a token late; one token at most is still being computed."""
    logits = np.random.default_rng(seed).normal(size=(len(rows), VOCABULARY)).astype(np.float32)
    known: list[list[int]] = [[] for _ in rows]
    processors: list[LogitProcessor | None] = [
        logit_processor_for(asked, prompt, known[i], EOS, VOCABULARY)
        for i, (asked, prompt, _) in enumerate(rows)
    ]
    together = LogitProcessors(processors)
    for index in range(min(len(generated) for *_, generated in rows) + 1):
        if index == late:
            together = LogitProcessors(processors)  # as when a row joins
        for i, (*_, generated) in enumerate(rows):
            known[i][:] = generated[: max(0, index - late % 2)]
        last = mx.array([generated[index - 1] if index else 5 for *_, generated in rows], dtype=mx.uint32)
        out = np.array(together.apply(mx.array(logits), [index] * len(rows), last))
        for i, row in enumerate(rows):
            np.testing.assert_allclose(out[i], full_attention(row, logits[i], index), rtol=1e-5, atol=1e-5)


def test_logits_of_a_sequence_without_logit_processor_stay_bit_identical() -> None:
    logits = np.random.default_rng(1).normal(size=(2, VOCABULARY)).astype(np.float32)
    one = logit_processor_for(generation(presence_penalty=1.0), [], [5], EOS, VOCABULARY)
    out = np.array(LogitProcessors([None, one]).apply(mx.array(logits), [3, 1], mx.array([5, 5])))
    assert out[0].tolist() == logits[0].tolist()
    assert out[1, 5] == logits[1, 5] - np.float32(1)
    assert np.delete(out[1], 5).tolist() == np.delete(logits[1], 5).tolist()


def test_padding_a_short_penalty_table_does_not_change_the_entry_of_its_first_id() -> None:
    few = logit_processor_for(generation(logit_bias={0: 5.0, 9: 1.0}), [], [], EOS, VOCABULARY)
    many = logit_processor_for(generation(repetition_penalty=2.0), list(range(30)), [], EOS, VOCABULARY)
    out = np.array(LogitProcessors([few, many]).apply(mx.ones((2, VOCABULARY)), [0, 0], None))
    assert out[0, [0, 1, 9]].tolist() == [6, 1, 2] and out[1, [0, 29, 30]].tolist() == [0.5, 0.5, 1]


@pytest.mark.parametrize("outside", [-1, VOCABULARY])
def test_penalties_ignore_ids_outside_the_vocabulary(outside: int) -> None:
    asked = generation(repetition_penalty=2.0, logit_bias={outside: 1.0})
    one = logit_processor_for(asked, [outside, 6], [outside, 4, 5], EOS, VOCABULARY)
    assert one is not None
    assert one.table(4)[0].tolist() == [6, 4, 5]
