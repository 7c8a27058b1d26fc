"""CPU exponentials are as exact as MLX's."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import activations

from workers.engine.cpu.exp import _bits, exp2, swiglu


def test_exp2_has_a_relative_error_below_3e_7() -> None:
    z = -np.linspace(0, 125, 1_000_003, dtype=np.float32)
    exact = np.exp2(z.astype(np.float64))
    assert np.abs(np.array(exp2(mx.array(z))) / exact - 1).max() < 2.5e-7


@pytest.mark.parametrize(("z", "exact"), [(0.0, 1.0), (-1.0, 0.5), (-126.0, 2.0**-126)])
def test_exp2_of_integers_is_exact(z: float, exact: float) -> None:
    assert exp2(mx.array([z])).item() == exact


@pytest.mark.parametrize("z", [-127.0, -3e38, -float("inf")])
def test_exp2_underflows_to_zero(z: float) -> None:
    assert exp2(mx.array([z])).item() == 0


def test_exp2_takes_any_shape_and_strided_views() -> None:
    z = -mx.arange(24, dtype=mx.float32).reshape(2, 3, 4).swapaxes(0, 2)
    assert np.allclose(np.array(exp2(z)), np.exp2(np.array(z)))


def test_exp2_without_a_compiler_is_bit_identical() -> None:
    z = -mx.random.uniform(0, 130, (10_000,), key=mx.random.key(2))
    assert mx.array_equal(_bits(z).view(mx.float32), exp2(z))


def test_cpu_swiglu_is_as_exact_as_that_of_mlx_lm() -> None:
    gate = mx.linspace(-100, 100, 100_001)
    x = mx.random.normal(gate.shape, key=mx.random.key(1))
    exact = np.array(gate, np.float64) / (1 + np.exp(-np.array(gate, np.float64))) * np.array(x, np.float64)
    ours, theirs = (np.array(f(gate, x), np.float64) for f in (swiglu, activations.swiglu))
    assert np.abs(ours - exact).max() <= 2 * np.abs(theirs - exact).max()


@pytest.mark.parametrize("gate", [0.0, -0.0, 1e-38, -1e-38, 1e38, float("inf")])
def test_cpu_swiglu_equals_mlx_lm_at_zero_tiny_and_infinite_gates(gate: float) -> None:
    one = mx.array([1.0])
    assert swiglu(mx.array([gate]), one).item() == activations.swiglu(mx.array([gate]), one).item()
