"""The broker's promise under random play: each attempt is answered once, every request ends, refusals have causes."""

from collections.abc import Callable
from typing import Any

import pytest

from broker.memory.decisions import GB
from broker.rules import MemoryRules
from shared.model_table import Replicas
from tests.broker.plays import status
from tests.broker.world import MODELS, World
from tests.marks import quick_and_slow

OFTEN = ("begin", "load", "finish", "hear_one", "hear_one", "tick")
RARELY = (
    "cancel", "submit_again", "lose_api", "start_foreign", "fail_load", "fail_run", "end_from_outside", "fall_silent",
    "drain", "say_bye", "fail_spawn", "lose_worker", "restart", "replace",
)  # fmt: skip
CRASHES = ("crash", "hang")
CODES = {"c", "draining", "queue_full", "model_unavailable", "request_crashed_engine"}


def seeds(many: int) -> list[Any]:
    """All of them in the slow lane; their remainders by 2 and 3 are settings too."""
    return quick_and_slow(tuple(range(many // 5)), tuple(range(many // 5, many)))


def play(
    seed: int,
    steps: int,
    rarely: tuple[str, ...],
    rules: MemoryRules | None = None,
    check: Callable[[World], None] = lambda world: None,
) -> World:
    world = World(seed, rules)
    for _ in range(steps):
        world.now += world.rng.random()
        world.do(world.rng.choice(OFTEN * 4 + rarely))
        check(world)
    return world


@pytest.mark.parametrize(
    "faults", [RARELY, (*RARELY, *CRASHES), (*RARELY, "stop")], ids=["outside", "crashes", "stops"]
)
@pytest.mark.parametrize("seed", seeds(80))
def test_each_attempt_is_answered_once_and_every_request_ends(seed: int, faults: tuple[str, ...]) -> None:
    world = play(seed, 160, faults)
    world.settle()
    assert not world.open
    world.do("tick")
    report = status(world.broker, world.now)
    assert (report.queued, report.in_flight) == (0, 0)


@pytest.mark.parametrize("seed", seeds(60))
def test_models_that_do_not_fit_together_answer_every_request_whatever_happens_to_their_workers(
    seed: int,
) -> None:
    rules = MemoryRules(
        8 * GB,
        lends=True,
        min_stay=1.0,
        max_wait=4.0,
        said=dict.fromkeys(MODELS, 5 * GB),
        ttl=dict.fromkeys(MODELS, 6.0 * (seed % 2)),
        spares=seed % 3,
    )
    ours = tuple(what for what in RARELY if what != "start_foreign")  # whose memory nobody could have back
    world = play(seed, 160, (*ours, *CRASHES, "lose_spare", "import_spare", "import_spare"), rules)
    world.settle()
    assert not world.open
    world.do("tick")
    report = status(world.broker, world.now)
    assert (report.queued, report.in_flight) == (0, 0)


@pytest.mark.parametrize("seed", seeds(40))
def test_models_with_several_workers_keep_to_their_number_and_budget_and_answer_every_request(
    seed: int,
) -> None:
    least, most = 1 + seed % 2, 2 + seed % 3
    rules = MemoryRules(
        12 * GB,
        lends=True,
        min_stay=1.0,
        max_wait=4.0,
        said=dict.fromkeys(MODELS, 3 * GB),
        ttl=dict.fromkeys(MODELS, 6.0 * (seed % 2)),
        replicas=dict.fromkeys(MODELS, Replicas(least, most)),
    )
    ours = tuple(what for what in RARELY if what != "start_foreign")
    world = play(seed, 160, (*ours, *CRASHES), rules, replicas_of)
    world.settle()
    assert not world.open


def replicas_of(world: World) -> None:
    report = status(world.broker, world.now)
    assert report.memory.used <= 12 * GB
    assert world.rules
    for model, bounds in world.rules.replicas.items():
        serving = [
            w for w in report.workers if w.model == model and w.state in ("spawned", "loading", "ready")
        ]
        assert len(serving) <= bounds.most


@pytest.mark.parametrize("seed", seeds(20))
def test_when_the_faults_are_over_each_model_serves(seed: int) -> None:
    """A model whose loads failed may refuse for a while: at most a minute after each failure."""
    world = play(seed, 160, (*RARELY, *CRASHES))
    world.settle()
    for model in MODELS:
        served = world.ends["served"]
        for number in range(20):
            world.now += 10.0
            world.do("tick")
            world.submit(f"last-{model}-{number}", model, 1)
            world.settle()
            if world.ends["served"] > served:
                break
        assert world.ends["served"] > served


def test_the_plays_reach_every_kind_of_end() -> None:
    reached = set[str]()
    attempts = 0
    for seed in range(20):
        world = play(seed, 300, (*RARELY, "stop") if seed % 2 else CRASHES * 4)
        reached |= set(world.ends)
        attempts = max(attempts, *(attempt for _, attempt in world.answers))
    assert reached == {"served", *CODES}
    assert attempts >= 4
