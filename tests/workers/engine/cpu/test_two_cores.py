"""Splitting an operation between two cores does not change a bit of its result."""

import threading

import mlx.core as mx
import pytest

from workers.engine.cpu import two_cores as module
from workers.engine.cpu.exp import swiglu
from workers.engine.cpu.model_patches import WORTH_TWO_CORES, activation
from workers.engine.cpu.two_cores import on_two_cores


def random(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(sum(shape)))


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "threads", lambda: 2)


@pytest.mark.parametrize("shape", [(171, 1, 1536), (1, 331, 1536), (3, 77, 1000), (1, 1, 200_000)])
def test_an_activation_on_two_cores_is_bit_identical_to_one(shape: tuple[int, ...]) -> None:
    gate, x = random(*shape), random(*shape) * 3
    assert gate.size >= WORTH_TWO_CORES
    assert mx.array_equal(activation(gate, x), swiglu(gate, x))


@pytest.mark.parametrize(("cores", "parts"), [(1, 1), (2, 2)])
def test_with_one_core_an_operation_is_not_split(
    cores: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "threads", lambda: cores)
    computed: list[slice] = []

    def compute(some: slice) -> mx.array:
        computed.append(some)
        return mx.arange(5)[some]

    assert on_two_cores(compute, 5).tolist() == [0, 1, 2, 3, 4]
    assert len(computed) == parts


def test_each_thread_has_its_own_second_mlx_stream() -> None:
    answers: list[bool] = []

    def compute() -> None:
        x = random(20, 1536)
        answers.append(bool(mx.array_equal(on_two_cores(lambda some: x[some] + 1, 20), x + 1)))

    for _ in range(2):
        thread = threading.Thread(target=compute)
        thread.start()
        thread.join()
    assert answers == [True, True]
