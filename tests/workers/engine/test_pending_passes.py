"""Passes that were launched are waited for in their order, and each is told what it took itself."""

from collections.abc import Sequence

import mlx.core as mx

from workers.engine.batch import PendingStep
from workers.engine.pending_passes import PendingPasses
from workers.engine.sampling.sampler import Drawn


class ScriptedPasses(PendingPasses):
    """A wait takes until a time that is written down before."""

    def __init__(self, *ends: float) -> None:
        super().__init__()
        self.clock, self._until = 0.0, iter(ends)

    def now(self) -> float:
        return self.clock

    def wait(self, arrays: Sequence[mx.array]) -> None:
        self.clock = max(self.clock, next(self._until))


def step() -> PendingStep:
    return PendingStep([], Drawn(mx.array([], dtype=mx.uint32)))


def test_a_pass_takes_from_the_end_of_the_one_before_or_from_its_launch() -> None:
    passes, took = ScriptedPasses(3.0, 5.0, 12.0), list[float]()
    passes.add([], step(), told=took.append)
    passes.clock = 1.0
    passes.add([], step(), told=took.append)
    passes.take(through=2)
    passes.clock = 10.0
    passes.add([], step(), told=took.append)
    passes.take_all()
    assert took == [3.0, 2.0, 2.0]


def test_nobody_waits_for_a_pass_without_tokens_before_a_later_one_gives_some() -> None:
    passes, took, first, second = ScriptedPasses(1.0, 2.0, 3.0), list[str](), step(), step()
    passes.add([], first, told=lambda seconds: took.append("decode"))
    passes.add([], told=lambda seconds: took.append("prefill"))
    assert passes.take(through=2) == [first]
    assert took == ["decode"] and passes
    passes.add([], second, told=lambda seconds: took.append("decode"))
    assert passes.take(through=3) == [second]
    assert took == ["decode", "prefill", "decode"] and not passes


def test_passes_that_have_landed_are_told_once_and_still_give_their_tokens() -> None:
    passes, took, given = ScriptedPasses(1.0, 2.0), list[float](), step()
    passes.add([], given, told=took.append)
    passes.add([], told=took.append)
    passes.land(through=1)
    passes.land(through=1)
    assert took == [1.0]
    assert passes.take_all() == [given] and took == [1.0, 1.0]
