"""Padding, and a prompt that its makers do not count, leave no trace in what is pooled."""

import mlx.core as mx
import numpy as np
import pytest

from workers.encoders.models.pooling import Pooling

HIDDEN = mx.array([[[1.0], [2.0], [6.0], [99.0]], [[3.0], [5.0], [7.0], [8.0]]])


@pytest.mark.parametrize(
    ("mode", "pooled"),
    [
        ("cls", [1, 3]),
        ("max", [6, 8]),
        ("mean", [4, 7.5]),
        ("mean_sqrt_len_tokens", [8 / 2**0.5, 15 / 2**0.5]),
        ("weightedmean", [(2 * 2 + 3 * 6) / 5, (3 * 7 + 4 * 8) / 7]),
        ("lasttoken", [6, 8]),
    ],
)
def test_tokens_of_a_prompt_and_of_padding_are_not_pooled(mode: str, pooled: list[float]) -> None:
    got = Pooling((mode,))(HIDDEN, lengths=(3, 4), skipped=(1, 2))
    assert np.array(got)[:, 0].tolist() == pytest.approx(pooled)
