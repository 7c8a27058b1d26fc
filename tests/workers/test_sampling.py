"""Sampling: one pass over unlike rows, each as if it were alone."""

from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from shared.protocol import Generation, Sampling, Stopping, TokenPrompt
from workers.engine.adjustment import Adjustments, adjustment_for
from workers.engine.randomness import gumbel, keys_array, row_key
from workers.engine.sampling import RowParameters, Sampler

VOCABULARY = 2000


def row(choice: int = 0, logprobs: int | None = None, **sampling: Any) -> RowParameters:
    return RowParameters(Sampling(**{"seed": 7, **sampling}), choice, logprobs)


def logits(rows: int, seed: int = 3) -> mx.array:
    return mx.random.normal((rows, VOCABULARY), key=mx.random.key(seed)) * 3


Draw = Callable[..., list[int]]  # rows, logits, index -> tokens


@pytest.fixture(params=[mx, np], ids=["mlx", "numpy"])
def xp(request: pytest.FixtureRequest) -> ModuleType:
    """As on a GPU, and as on a CPU."""
    library: ModuleType = request.param
    return library


@pytest.fixture
def draw(xp: ModuleType) -> Draw:
    def draw(rows: list[RowParameters], values: mx.array, index: int = 0) -> list[int]:
        return cast(list[int], Sampler(rows, xp).draw(values, [index] * len(rows)).tokens.tolist())

    return draw


UNLIKE = [
    row(temperature=0.0),
    row(temperature=1.0),
    row(temperature=0.7, top_p=0.95),
    row(temperature=1.5, top_k=20, choice=1),
    row(temperature=1.0, min_p=0.05, seed=9),
    row(temperature=0.3, top_p=0.5, top_k=40, min_p=0.01),
]


def test_unlike_rows_draw_together_what_each_draws_alone(draw: Draw) -> None:
    values = logits(len(UNLIKE))
    alone = [draw([parameters], values[i : i + 1])[0] for i, parameters in enumerate(UNLIKE)]
    assert draw(UNLIKE, values) == alone


def test_the_same_seed_and_index_draw_the_same_token_and_others_do_not(draw: Draw) -> None:
    values = mx.zeros((1, VOCABULARY))
    assert draw([row()], values) == draw([row()], values)
    assert len({draw([row()], values, index)[0] for index in range(20)}) > 15
    assert len({draw([row(choice=choice)], values)[0] for choice in range(20)}) > 15
    assert len({draw([row(seed=seed)], values)[0] for seed in range(20)}) > 15


def test_a_cut_that_removes_nothing_draws_what_no_cut_draws(draw: Draw) -> None:
    """The noise belongs to the token's id, not to its place among the candidates."""
    values = logits(1) * 0.1
    for index in range(30):
        assert draw([row(top_k=VOCABULARY)], values, index) == draw([row()], values, index)


@pytest.mark.parametrize("peaked", [0.05, 1.0, 4.0])
def test_a_nucleus_is_exact_however_wide_it_is(draw: Draw, peaked: float) -> None:
    values = logits(1) * peaked
    probabilities = mx.softmax(values[0])
    order = cast(list[int], mx.argsort(-probabilities).tolist())
    mass = 0.0
    nucleus = set()
    for id in order:
        if mass >= 0.9:
            break
        nucleus.add(id)
        mass += cast(float, probabilities[id].item())
    drawn = {draw([row(top_p=0.9)], values, index)[0] for index in range(200)}
    assert drawn <= nucleus
    assert len(drawn) > min(len(nucleus), 200) / 4


def test_draws_follow_the_distribution(xp: ModuleType) -> None:
    wanted = [0.5, 0.25, 0.15, 0.1]
    count = 20_000
    keys = keys_array([row_key(11, 0, index) for index in range(count)], xp)
    values = xp.log(xp.array(wanted))[None] + gumbel(keys, xp.array([[5, 900, 49_000, 3]]))
    seen = Counter(cast(list[int], xp.argmax(values, axis=-1).tolist()))
    chi_square = sum((seen[i] - count * p) ** 2 / (count * p) for i, p in enumerate(wanted))
    assert chi_square < 16.3  # 3 degrees of freedom, 0.1 %


@pytest.mark.parametrize(("seed", "index", "id"), [(0, 18, 356), (5, 10, 32_123), (7, 19, 39_430)])
def test_the_loudest_noise_is_finite_and_lets_no_forbidden_token_win(
    xp: ModuleType, seed: int, index: int, id: int
) -> None:
    noise = gumbel(keys_array([row_key(seed, 0, index)], xp), xp.array([[id]]))
    assert 16 < cast(float, noise.item()) < 17


def test_top_p_zero_is_greedy(draw: Draw) -> None:
    values = logits(1)
    assert draw([row(top_p=0.0)], values) == draw([row(temperature=0.0)], values)


def test_log_probabilities_are_the_models_own_and_best_first() -> None:
    values = logits(2)
    drawn = Sampler([row(temperature=0.0), row(temperature=0.0, logprobs=3)]).draw(values, [0, 0])
    assert drawn.best is not None and drawn.asking == [1]
    (taken,) = drawn.best.entries()
    expected = values[1] - mx.logsumexp(values[1])
    top = [value for _, value in taken.top]
    assert top == pytest.approx(sorted(cast(list[float], expected.tolist()))[:-4:-1])
    assert taken.chosen == top[0]


def adjusted(
    generation: Generation, prompt: list[int], held: list[int], values: list[float], index: int
) -> list[float]:
    adjustment = adjustment_for(generation, prompt, held, eos=[3], vocabulary=4)
    assert adjustment is not None
    last = mx.array(held[-1:] or [0], dtype=mx.uint32)
    return cast(
        list[list[float]],
        Adjustments([adjustment]).apply(mx.array([values], dtype=mx.float32), [index], last).tolist(),
    )[0]


def generation(min_tokens: int = 0, **sampling: Any) -> Generation:
    stopping = Stopping(min_tokens=min_tokens)
    return Generation(prompt=TokenPrompt(ids=[0]), sampling=Sampling(seed=0, **sampling), stopping=stopping)


def test_presence_and_frequency_penalties_count_generated_tokens_only() -> None:
    asked = generation(presence_penalty=1.0, frequency_penalty=0.5)
    assert adjusted(asked, [0, 1], [2, 2, 1], [0, 0, 0, 0], 3) == [0, -1.5, -2.0, 0]


def test_the_repetition_penalty_counts_the_prompt_too() -> None:
    assert adjusted(generation(repetition_penalty=2.0), [0], [1], [4, -4, 4, 4], 1) == [2, -8, 4, 4]


def test_logit_bias_is_added_and_the_end_is_out_of_reach_before_min_tokens() -> None:
    asked = generation(min_tokens=2, logit_bias={1: 5.0})
    assert adjusted(asked, [], [], [0, 0, 0, 9], 1)[1:] == [5, 0, -1e9]
    assert adjusted(asked, [], [], [0, 0, 0, 9], 2)[3] == 9


def test_a_row_that_asks_for_nothing_has_no_adjustment() -> None:
    assert adjustment_for(generation(), [0], [], [3], 4) is None
