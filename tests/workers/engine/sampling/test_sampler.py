"""The sampler draws for a batch of unlike sequences what each would draw alone."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from shared.protocol import Generation, Sampling, TokenPrompt
from workers.device import ACCELERATOR_PATH
from workers.engine.sampling.grammar_masks import GrammarMasks
from workers.engine.sampling.logit_processors import logit_processor_for
from workers.engine.sampling.logprobs import UnscoredLogits
from workers.engine.sampling.randomness import draw_key, gumbel, keys_array
from workers.engine.sampling.sampler import Sampler, SequenceParameters

VOCABULARY = 2000


def row(choice: int = 0, logprobs: int | None = None, **sampling: Any) -> SequenceParameters:
    return SequenceParameters(Sampling(**{"seed": 7, **sampling}), choice, logprobs)


def logits(rows: int, seed: int = 3) -> mx.array:
    return mx.random.normal((rows, VOCABULARY), key=mx.random.key(seed)) * 3


Draw = Callable[..., list[int]]  # rows, logits, index -> tokens


@pytest.fixture(params=[mx, np], ids=["mlx", "numpy"])
def xp(request: pytest.FixtureRequest) -> ModuleType:
    """Runs a test with mlx, as on a GPU, and with numpy, as on a CPU."""
    library: ModuleType = request.param
    return library


@pytest.fixture
def draw(xp: ModuleType) -> Draw:
    def draw(rows: list[SequenceParameters], values: mx.array, index: int = 0) -> list[int]:
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


def test_sequences_with_unlike_sampling_draw_together_what_each_draws_alone(draw: Draw) -> None:
    values = logits(len(UNLIKE))
    alone = [draw([parameters], values[i : i + 1])[0] for i, parameters in enumerate(UNLIKE)]
    assert draw(UNLIKE, values) == alone


def test_a_seed_and_an_index_determine_the_drawn_token(draw: Draw) -> None:
    values = mx.zeros((1, VOCABULARY))
    assert draw([row()], values) == draw([row()], values)
    assert len({draw([row()], values, index)[0] for index in range(20)}) > 15
    assert len({draw([row(choice=choice)], values)[0] for choice in range(20)}) > 15
    assert len({draw([row(seed=seed)], values)[0] for seed in range(20)}) > 15


def test_top_k_and_top_p_that_exclude_nothing_do_not_change_the_draw(draw: Draw) -> None:
    """Noise depends on the token id, not on its position among the candidates."""
    values = logits(1) * 0.1
    for index in range(30):
        assert draw([row(top_k=VOCABULARY)], values, index) == draw([row()], values, index)


@pytest.mark.parametrize("peaked", [0.05, 1.0, 4.0])
def test_a_top_p_nucleus_is_exact_at_any_width(draw: Draw, peaked: float) -> None:
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


def test_draws_follow_the_softmax_distribution(xp: ModuleType) -> None:
    wanted = [0.5, 0.25, 0.15, 0.1]
    count = 20_000
    keys = keys_array([draw_key(11, 0, index) for index in range(count)], xp)
    values = xp.log(xp.array(wanted))[None] + gumbel(keys, xp.array([[5, 900, 49_000, 3]]))
    seen = Counter(cast(list[int], xp.argmax(values, axis=-1).tolist()))
    chi_square = sum((seen[i] - count * p) ** 2 / (count * p) for i, p in enumerate(wanted))
    assert chi_square < 16.3  # 3 degrees of freedom, 0.1 %


@pytest.mark.parametrize(("seed", "index", "id"), [(0, 18, 356), (5, 10, 32_123), (7, 19, 39_430)])
def test_the_loudest_noise_is_finite_and_cannot_make_a_masked_token_win(
    xp: ModuleType, seed: int, index: int, id: int
) -> None:
    noise = gumbel(keys_array([draw_key(seed, 0, index)], xp), xp.array([[id]]))
    assert 16 < cast(float, noise.item()) < 17


def test_top_p_zero_is_greedy(draw: Draw) -> None:
    values = logits(1)
    assert draw([row(top_p=0.0)], values) == draw([row(temperature=0.0)], values)


def test_logprobs_are_of_the_models_own_distribution_and_best_first() -> None:
    values = logits(2)
    drawn = Sampler([row(temperature=0.0), row(temperature=0.0, logprobs=3)]).draw(values, [0, 0])
    assert drawn.logprobs is not None and drawn.logprob_rows == [1]
    (taken,) = drawn.logprobs.entries()
    expected = values[1] - mx.logsumexp(values[1])
    top = [value for _, value in taken.top]
    assert top == pytest.approx(sorted(cast(list[float], expected.tolist()))[:-4:-1])
    assert taken.chosen == top[0]


PENALTIES: dict[str, Any] = {"presence_penalty": 0.7, "frequency_penalty": 0.3, "repetition_penalty": 1.2}
KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, **PENALTIES},
    {"temperature": 0.8},
    {"temperature": 0.8, "logit_bias": {7: 3.0}, "min_p": 0.01},
    {"temperature": 1.0, "top_p": 0.9, **PENALTIES},
    {"temperature": 0.7, "top_p": 0.95},
    {"temperature": 1.2, "top_k": 30},
]


def rows_of_every_kind(generated: list[list[int]]) -> list[SequenceParameters]:
    """``generated``: the tokens of each sequence so far."""
    rows = []
    for i, kind in enumerate(KINDS):
        sampling = Sampling(seed=i, **kind)
        asked = Generation(prompt=TokenPrompt(ids=[1, 2, 3]), sampling=sampling)
        processor = logit_processor_for(asked, [1, 2, 3], generated[i], [2], VOCABULARY)
        rows.append(SequenceParameters(sampling, logprobs=i % 3 or None, processor=processor))
    return rows


def generate(rows: list[int], generated: list[list[int]], xp: ModuleType, steps: int) -> list[list[int]]:
    """Generates ``steps`` tokens of the sequences ``rows``, each from logits of its own."""
    parameters = rows_of_every_kind(generated)
    sampler = Sampler([parameters[i] for i in rows], xp)
    last = mx.array([0] * len(rows), dtype=mx.uint32)
    for index in range(steps):
        values = mx.concatenate([logits(1, seed=100 * i + index) for i in rows])
        last = sampler.draw(values, [index] * len(rows), None, last).tokens
        for i, token in zip(rows, cast(list[int], last.tolist()), strict=True):
            generated[i].append(token)
    return [generated[i] for i in rows]


def test_sequences_of_every_sampling_kind_generate_together_what_each_generates_alone(xp: ModuleType) -> None:
    together = generate(list(range(len(KINDS))), [[] for _ in KINDS], xp, steps=12)
    for i in range(len(KINDS)):
        assert generate([i], [[] for _ in KINDS], xp, steps=12) == [together[i]]


@pytest.mark.parametrize("kind", [{}, PENALTIES, {"logit_bias": {3: 1.0}}])
def test_a_greedy_batch_never_waits_for_its_logits(xp: ModuleType, kind: dict[str, Any]) -> None:
    sampling = Sampling(seed=1, temperature=0.0, **kind)
    asked = Generation(prompt=TokenPrompt(ids=[1]), sampling=sampling)
    processor = logit_processor_for(asked, [1], [], [2], VOCABULARY)
    assert not Sampler([SequenceParameters(sampling, logprobs=5, processor=processor)], xp).waits


@pytest.mark.parametrize("depth", [0, 1, 5, 20, VOCABULARY + 5])
def test_logprobs_computed_with_numpy_equal_those_computed_with_mlx(depth: int) -> None:
    values = mx.round(logits(3) * 2) / 2  # with equal ones
    tokens = mx.array([5, 700, 1999], dtype=mx.uint32)
    unscored = UnscoredLogits(values, tokens, depth)
    for one, other in zip(unscored.scored(np).entries(), unscored.scored(mx).entries(), strict=True):
        assert one.chosen == pytest.approx(other.chosen, abs=1e-4)
        assert [id for id, _ in one.top] == [id for id, _ in other.top]
        assert [value for _, value in one.top] == pytest.approx([value for _, value in other.top], abs=1e-4)
        assert len(one.top) == max(1, min(depth, VOCABULARY))


def test_top_logprobs_are_in_order_of_value_and_equal_values_in_order_of_id(xp: ModuleType) -> None:
    values = mx.zeros((1, VOCABULARY))
    values[0, 1500] = 1.0
    (entry,) = UnscoredLogits(values, mx.array([4], dtype=mx.uint32), 4).scored(xp).entries()
    assert [id for id, _ in entry.top] == [1500, 0, 1, 2]
    assert entry.chosen == entry.top[1][1]  # to the bit


def test_a_drawn_token_has_the_same_logprob_among_the_top_logprobs(xp: ModuleType) -> None:
    values = logits(30)
    rows = [row(temperature=0.5, seed=seed, logprobs=20) for seed in range(30)]
    drawn = Sampler(rows, xp).draw(values, [0] * 30)
    assert drawn.logprobs is not None
    tokens = cast(list[int], drawn.tokens.tolist())
    hits = [
        (entry.chosen, dict(entry.top)[token])
        for token, entry in zip(tokens, drawn.logprobs.entries(), strict=True)
        if token in dict(entry.top)
    ]
    assert len(hits) > 20 and all(one == other for one, other in hits)


@pytest.mark.parametrize("kind", [{"top_p": 0.9}, {"top_k": 4}, {"top_p": 0.5, "min_p": 0.1}])
def test_an_accelerator_draws_from_a_nucleus_without_waiting_for_logits(kind: dict[str, Any]) -> None:
    assert not Sampler([SequenceParameters(Sampling(temperature=1.0, seed=1, **kind))], mx).waits


@pytest.mark.parametrize("logprobs", [None, 3])
def test_an_accelerators_draw_reads_nothing_on_the_host(
    logprobs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a trace MLX refuses to evaluate what the draw is made of."""
    monkeypatch.setenv(ACCELERATOR_PATH, "1")
    generation = Generation(prompt=TokenPrompt(ids=[5]), sampling=Sampling(seed=1, frequency_penalty=0.5))
    processor = logit_processor_for(generation, [5], [6, 7], [2], VOCABULARY)
    rows = [*UNLIKE, row(temperature=0.9, top_p=0.9)]
    rows[1] = replace(rows[1], processor=processor, logprobs=logprobs)
    sampler = Sampler(rows, mx)
    masks = GrammarMasks([(2, np.full(VOCABULARY // 8, 255, dtype=np.uint8))])

    def drawn(values: mx.array) -> list[mx.array]:
        return sampler.draw(values, [2] * len(rows), masks, mx.zeros(len(rows), dtype=mx.uint32)).arrays

    values = logits(len(rows))
    drawn(values)
    assert not sampler.waits
    assert mx.compile(drawn)(values)[0].shape == (len(rows),)
