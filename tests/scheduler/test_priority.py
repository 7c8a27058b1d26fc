"""A high key's first tokens beside many clients of a low one, and what that one gets meanwhile, in simulated time."""

from dataclasses import replace
from heapq import heapify, heappop, heappush
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulated_engine import Machine, Planned, Request, SimulatedEngine
from shared.key_terms import Priority
from tests.marks import examples
from tests.scheduler.views import COST, plan, read, row, task
from workers.engine.scheduling import scheduler
from workers.engine.scheduling.fairness import LEVEL_STEPS, RANKS
from workers.engine.scheduling.order import TURNS
from workers.engine.scheduling.plan import Chunk, Costs, Limits, Plan, View
from workers.engine.scheduling.scheduler import PATIENCE

# Like a model of 135M parameters on two cores: a pass is longer with each sequence and each token in it.
CPU = Machine(Costs(fixed=0.03, per_token=0.0025), COST, decode=0.06, per_row=0.004, per_context=1e-6)
THINK = 0.012  # seconds until a client asks again
LIMITS = Limits(rows=32, chunk=128)


def two_keys(
    high: int, low: int, requests: int, planned: Planned = scheduler.plan, limits: Limits = LIMITS
) -> tuple[float, float]:
    """The median seconds that a high prompt waits for its first token; tokens per second of the low key meanwhile.

    Every client asks again as soon as it is answered; the low ones ask first.
    """
    engine = SimulatedEngine(CPU, 1 << 30, limits, planned)
    arrivals = [
        *((0.0, f"low{n}", 0) for n in range(low)),
        *((6.0 + 0.1 * n, f"high{n}", 0) for n in range(high)),
    ]
    heapify(arrivals)
    ended, heard = 0, 0
    while ended < requests:
        engine.now = engine.now if engine.active else max(engine.now, arrivals[0][0])
        while arrivals and arrivals[0][0] <= engine.now:
            at, client, turn = heappop(arrivals)
            key: Priority = "high" if client.startswith("high") else "low"
            prompt = ("template", 24), (f"{client}.{turn}", 56)
            engine.submit(Request(f"{client}.{turn}", key, at, prompt, 32, priority=key))
        before = len(engine.ended)
        engine.step()
        for life in engine.ended[before:]:
            client, _, number = life.request.id.rpartition(".")
            ended += life.request.priority == "high"
            heappush(arrivals, (engine.now + THINK, client, int(number) + 1))
    for life in engine.lives.values():
        heard += sum(at > 6.0 for at in life.times) * (life.request.priority == "low")
    waits = [
        life.times[0] - life.request.arrival
        for life in engine.lives.values()
        if life.request.priority == "high" and life.times
    ]
    return median(waits), heard / (engine.now - 6.0)


def without_priority(view: View, now: float) -> Plan:
    """As if all sequences that decode were of high priority: nothing is urgent."""
    return scheduler.plan(
        replace(view, running=tuple(replace(row, priority="high") for row in view.running)), now
    )


def test_a_high_keys_first_tokens_take_at_most_half_as_long_again_beside_many_low_ones() -> None:
    alone, _ = two_keys(4, 0, 120)
    crowded, tokens = two_keys(4, 28, 120)
    assert crowded <= 1.5 * alone
    assert tokens > 60  # per second; without any high client it gets 90
    late, _ = two_keys(4, 28, 120, without_priority)
    assert late > crowded, "the play can fail"


@pytest.mark.parametrize("high", [40, 80])
def test_a_low_key_goes_on_however_many_high_prompts_come(high: int) -> None:
    """More high clients than batch slots."""
    _, tokens = two_keys(high, 8, 4 * high)
    assert tokens > 4  # per second


asked = st.tuples(
    st.sampled_from(["high", "normal", "low"]), st.integers(1, 300), st.integers(1, 20), st.integers(1, 4)
)


@examples(40)
@given(st.lists(asked, min_size=2, max_size=30), st.integers(2, 12))
def test_sequences_pause_for_one_pass_of_each_priority_at_the_most_each_higher_than_the_one_before(
    requests: list[tuple[Priority, int, int, int]], rows: int
) -> None:
    engine = SimulatedEngine(CPU, 1 << 30, replace(LIMITS, rows=rows))
    for number, (priority, tokens, answer, steps) in enumerate(requests):
        engine.submit(
            Request(str(number), priority, engine.now, ((f"own{number}", tokens),), answer, priority=priority)
        )
        paused = list[int]()  # for passes of these ranks
        for _ in range(steps if number < len(requests) - 1 else 10_000):
            plan = engine.step() if engine.active else Plan()
            paused = [*paused, RANKS[engine.view().read_for]] if plan.pause else []
            assert paused == sorted(set(paused), reverse=True)
    assert len(engine.ended) == len(requests)


# ---------------------------------------------------------------- one plan


HIGH, LOW = task("high", 60, priority="high"), task("low", 50, priority="low")
ROWS = [row(f"r{number}", priority="low") for number in range(32)]
WIDE = Limits(rows=64)


def test_an_urgent_prompt_waits_for_no_company_and_none_of_lower_priority_joins_its_pass() -> None:
    assert read(plan(HIGH, LOW, *ROWS, step=0, limits=WIDE)) == ["high"]
    assert read(plan(LOW, *ROWS, step=PATIENCE - 1, limits=WIDE)) == []
    equals = [row(f"r{number}", priority="high") for number in range(32)]
    assert read(plan(HIGH, *equals, step=0, limits=WIDE)) == []
    assert read(plan(HIGH, LOW, *equals, step=PATIENCE, limits=WIDE)) == ["high", "low"]


def test_a_low_prompt_that_has_waited_long_shares_the_pass_of_a_high_one() -> None:
    new, low = replace(HIGH, since=2 * LEVEL_STEPS - 1), replace(LOW, tokens=70)
    assert read(plan(new, low, row("r", priority="low"), step=2 * LEVEL_STEPS)) == ["high", "low"]
    assert read(plan(new, low, row("r", priority="low"), step=2 * LEVEL_STEPS - 1)) == ["high"]


def test_an_urgent_prompt_may_stall_lower_sequences_twice_as_long() -> None:
    costs, long = Costs(fixed=0.1, per_token=0.001), replace(HIGH, tokens=5000)
    assert plan(long, row("r", priority="high"), costs=costs).prefill == (Chunk("high", 0, 100),)
    assert plan(long, row("r", priority="low"), costs=costs).prefill == (Chunk("high", 0, 300),)


def test_an_urgent_prompt_does_not_wait_for_the_decode_pass_that_a_low_ones_prefill_owes() -> None:
    costs = Costs(decode=0.2)

    def after(read_for: Priority) -> list[str]:
        return read(plan(HIGH, row("r", priority="low"), read=0.2, read_for=read_for, costs=costs))

    assert [after("low"), after("normal"), after("high")] == [["high"], ["high"], []]


def test_every_fourth_pass_is_still_the_oldest_prompts_beside_urgent_ones() -> None:
    waiting = replace(LOW, tokens=900), replace(HIGH, since=5)
    assert read(plan(*waiting, ROWS[0], step=6, passes=TURNS - 1)) == ["low"]
