"""The shortlist gives the ids that a sort of the whole vocabulary gives, and sorts little of it."""

from typing import cast

import mlx.core as mx
import pytest

from workers.engine.sampling.shortlist import GROUP, best_ids


def by_sorting(values: mx.array, count: int) -> list[list[int]]:
    return cast(list[list[int]], mx.argsort(-values, axis=-1)[:, :count].tolist())


@pytest.mark.parametrize("vocabulary", [200, 64 * 100, 64 * 100 + 17, 50_000])
@pytest.mark.parametrize("count", [1, 5, 20])
@pytest.mark.parametrize("levels", [3, 50, 10**9])
def test_the_best_tokens_are_those_of_a_sorted_vocabulary_with_equal_values_by_id(
    vocabulary: int, count: int, levels: int
) -> None:
    """Few levels give many equal values, also between groups."""
    values = mx.random.randint(0, levels, (4, vocabulary), key=mx.random.key(count)).astype(mx.float32)
    assert best_ids(values, count).tolist() == by_sorting(values, count)


def test_masked_tokens_are_ranked_by_id_behind_the_others() -> None:
    values = mx.full((2, 6417), -mx.inf)
    values[0, 6000] = 1.0
    assert best_ids(values, 3).tolist() == by_sorting(values, 3)


def test_a_row_with_fewer_numbers_than_wanted_and_nan_elsewhere_gives_ids_of_the_vocabulary() -> None:
    vocabulary = 6417  # 17 tokens in the last group
    values = mx.full((1, vocabulary), mx.nan)
    values[:, -17:] = 1.0
    assert (best_ids(values, 20) < vocabulary).all()


def test_no_array_as_large_as_the_vocabulary_is_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, count, widths = 64 * 2000, 20, list[int]()

    def spy(array: mx.array, axis: int) -> mx.array:
        widths.append(array.shape[axis])
        return sort(array, axis=axis)

    sort = mx.argsort
    monkeypatch.setattr(mx, "argsort", spy)
    best_ids(mx.zeros((2, vocabulary)), count)
    assert widths == [vocabulary // GROUP, count * GROUP]
