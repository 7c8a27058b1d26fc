"""MLX is told to take what the weights need and what was lent, in an order that never wires more than that."""

from collections.abc import Iterator

import mlx.core as mx
import pytest

from tests.tiny_model import make_tiny_llama
from workers.device import ACCELERATOR_PATH
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.engine.memory.device_memory import LEAST_POOL, MOST_POOL, SCRATCH, DeviceMemory, limits_for
from workers.model.load import inspect, load
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.sequence import TokenRules

GB = 10**9
WEIGHTS = 4 * GB
MAC = 12 * GB  # of a machine with 16 GB


class Device:
    """Stands for MLX on a Mac; it refuses what the system would."""

    def __init__(self, recommended: int | None = MAC) -> None:
        self.told = list[tuple[str, int]]()
        self._recommended = recommended

    def device_info(self) -> dict[str, int]:
        return {} if self._recommended is None else {"max_recommended_working_set_size": self._recommended}

    def set_memory_limit(self, limit: int) -> int:
        return self._set("memory", limit)

    def set_cache_limit(self, limit: int) -> int:
        return self._set("pool", limit)

    def set_wired_limit(self, limit: int) -> int:
        if self._recommended is not None and limit > self._recommended:
            raise ValueError("larger than the system's limit")
        return self._set("wired", limit)

    def _set(self, name: str, limit: int) -> int:
        self.told.append((name, limit))
        return 0


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ACCELERATOR_PATH, "1")


def test_weights_and_what_is_lent_are_wired_and_passes_may_take_more() -> None:
    limits = limits_for(WEIGHTS, 2 * GB, MAC)
    assert (limits.wired, limits.memory) == (6 * GB, 6 * GB + SCRATCH)


def test_no_more_is_wired_than_the_system_recommends() -> None:
    assert limits_for(10 * GB, 8 * GB, MAC).wired == MAC


def test_freed_buffers_are_kept_in_a_small_pool() -> None:
    """MLX's own limit is nearly all memory of the machine."""
    assert limits_for(0, GB, MAC).pool == LEAST_POOL
    assert limits_for(60 * GB, 20 * GB, 96 * GB).pool == MOST_POOL


def test_memory_is_allowed_before_it_is_wired_and_given_up_after_it_was(accelerator: None) -> None:
    device = Device()
    memory = DeviceMemory(WEIGHTS, device)
    memory.lend(2 * GB)
    assert [name for name, _ in device.told] == ["memory", "pool", "wired"]
    device.told.clear()
    memory.lend(4 * GB)
    grown = [each for each in device.told if each[0] != "pool"]
    assert grown == [("memory", 8 * GB + SCRATCH), ("wired", 8 * GB)]
    device.told.clear()
    memory.lend(GB)
    shrunk = [each for each in device.told if each[0] != "pool"]
    assert shrunk == [("wired", 5 * GB), ("memory", 5 * GB + SCRATCH)]


def test_the_same_lease_tells_nothing_anew(accelerator: None) -> None:
    device = Device()
    memory = DeviceMemory(WEIGHTS, device)
    memory.lend(GB)
    device.told.clear()
    memory.lend(GB)
    assert not device.told


def test_a_system_that_tells_no_limit_or_refuses_one_keeps_the_others(
    accelerator: None, caplog: pytest.LogCaptureFixture
) -> None:
    for device in (Device(None), Refusing()):
        DeviceMemory(WEIGHTS, device).lend(GB)
        assert {name for name, _ in device.told} == {"memory", "pool"}
    assert "does not take a limit" in caplog.text


class Refusing(Device):
    def set_wired_limit(self, limit: int) -> int:
        raise RuntimeError("an older system")


def test_a_cpu_keeps_its_own_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ACCELERATOR_PATH, raising=False)
    device = Device()
    DeviceMemory(WEIGHTS, device).lend(GB)
    assert not device.told


@pytest.fixture
def limits_as_before() -> Iterator[None]:
    before = mx.set_memory_limit(GB), mx.set_cache_limit(GB)
    yield
    mx.set_memory_limit(before[0])
    mx.set_cache_limit(before[1])


def test_limits_follow_the_lease_of_an_engine(
    accelerator: None, limits_as_before: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    loaded = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
    rules = TokenRules(token_bytes(loaded.tokenizer), frozenset({2}))
    engine = BatchEngine(loaded.model, rules, vocabulary_size_of(loaded), EngineLimits(kv_bytes=3 * GB))
    weights = mx.get_memory_limit() - SCRATCH - 3 * GB
    assert 0 < weights < GB
    engine.lend(2 * GB)
    assert mx.get_memory_limit() == weights + 2 * GB + SCRATCH
