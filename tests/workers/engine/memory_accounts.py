"""At rest MLX holds the model and the bytes that are counted as kept prompts, whatever was asked, on both paths.

Python's collector of cycles is off here: what only it would free is held. So is MLX's pool of freed buffers: it gives
an array a buffer that may be up to two pages larger.
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import ArraysCache, KVCache

from tests.jobs import job
from tests.marks import examples
from tests.workers.engines import MakeEngine, play
from workers.engine.cpu.two_cores import second_stream
from workers.engine.engine import BatchEngine
from workers.engine.kv.mlx_caches import TokenSpan, cut_out, evaluate, extract_state, nbytes
from workers.job import Job

SLACK = 65536  # bytes: the last inputs and offsets of the batch, what draws were made of; half of the smallest slab
AMPLE = 1 << 30
BEGINNINGS = [[(step * i) % 250 + 3 for i in range(420)] for step in (5, 7, 11)]


@dataclass(frozen=True)
class Ask:
    """``shared``: tokens of a beginning that others have too; ``own``: tokens behind them.

    ``steps``: before the next request comes. ``left``: its client leaves then.
    """

    beginning: int
    shared: int
    own: int
    tokens: int
    choices: int
    temperature: float
    scored: bool
    checkpoint: bool
    steps: int
    left: bool

    def job(self, number: int) -> Job:
        own = [(number * 31 + i * 13) % 250 + 3 for i in range(self.own)]
        prompt = BEGINNINGS[self.beginning][: self.shared] + own
        return job(
            str(number),
            prompt,
            max_tokens=self.tokens,
            n=self.choices,
            temperature=self.temperature,
            logprobs=2 if self.scored else None,
            echo=self.scored,
            checkpoints=[self.shared] if self.checkpoint and self.shared else [],
            namespace=str(self.beginning % 2),
        )


ASKS = st.builds(
    Ask,
    beginning=st.integers(0, len(BEGINNINGS) - 1),
    shared=st.sampled_from([0, 17, 100, 255, 256, 257, 400]),
    own=st.integers(1, 40),
    tokens=st.integers(1, 12),
    choices=st.sampled_from([1, 1, 3]),
    temperature=st.sampled_from([0.0, 1.0]),
    scored=st.sampled_from([False, False, True]),
    checkpoint=st.booleans(),
    steps=st.integers(0, 6),
    left=st.sampled_from([False, False, True]),
)


@pytest.fixture(autouse=True)
def no_collector_and_no_pool() -> Iterator[None]:
    gc.collect()
    gc.disable()
    before = mx.set_cache_limit(0)
    yield
    mx.set_cache_limit(before)
    gc.enable()


def settled(engine: BatchEngine) -> int:
    """Bytes that MLX holds when an engine has answered something and forgotten it. Its lease has set a pool."""
    mx.set_cache_limit(0)
    mx.clear_cache()
    every = [job(str(kind), [9] * 20, temperature=kind, logprobs=1, echo=True) for kind in (0.0, 1.0)]
    play(engine, every)
    engine.forget(None, lambda forgotten: None)
    return held()


def held() -> int:
    """Bytes of MLX's arrays when all that was started has ended, on both streams of a CPU."""
    mx.synchronize()
    mx.synchronize(second_stream())
    return mx.get_active_memory()


@settings(
    examples(30),
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.lists(ASKS, min_size=1, max_size=4), max_size=3), st.sampled_from([AMPLE, 600_000, 200_000])
)
def test_at_rest_the_arrays_are_those_of_the_model_and_what_is_counted_of_kept_prompts(
    make_engine: MakeEngine, rounds: list[list[Ask]], size: int
) -> None:
    engine = make_engine(kv_bytes=size, cache_bytes=size, rows=4, chunk=64)
    before = settled(engine)
    for asks in rounds:
        for number, ask in enumerate(asks):
            engine.add(ask.job(number))
            for _ in range(ask.steps):
                engine.step()
            if ask.left:
                engine.cancel(str(number))
        play(engine, [])
        assert abs(held() - before - int(engine.report["cache_bytes"])) <= SLACK
    engine.forget(None, lambda forgotten: None)
    assert abs(held() - before) <= SLACK


@pytest.mark.parametrize("heads", [1, 2])
def test_a_kept_part_is_in_a_buffer_of_its_own_size(heads: int) -> None:
    """MLX calls a part of one head contiguous, and would hold all of what it was cut from."""
    mx.clear_cache()
    before = held()
    layer, state = KVCache(), ArraysCache(1)
    layer.update_and_fetch(*[mx.ones((1, heads, 20, 4))] * 2)
    state[0] = mx.ones((4, 100))
    kept = [*cut_out([layer], TokenSpan(0, 5, 10)), extract_state(state, 2)]
    evaluate(kept)
    del layer, state
    assert held() - before == nbytes(kept) == 2 * heads * 10 * 4 * 4 + 400
