"""Whole plays of the scheduler against a simulated engine: whatever comes, everything ends and nothing is exceeded."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulated_engine import Machine, Request, SimulatedEngine
from shared.callers import Asker
from shared.key_terms import Priority
from tests.marks import examples
from tests.scheduler.views import COST
from workers.engine.kv.footprint import GROWTH, TOKENS, Slabs, SlabSize, rounded
from workers.engine.scheduling import scheduler
from workers.engine.scheduling.order import TURNS
from workers.engine.scheduling.plan import SMALLEST, Costs, Limits, Memory, Plan, Row, Task, View
from workers.engine.scheduling.scheduler import URGENT

MACHINE = Machine(Costs(fixed=0.01, per_token=0.001), COST, decode=0.02, per_row=0.001, per_context=1e-6)

requests = st.tuples(
    st.sampled_from("xyz"),  # caller
    st.integers(0, 3),  # segments of a prompt that all share
    st.integers(1, 2_000),  # tokens of its own
    st.integers(1, 40),  # of the answer
    st.sampled_from(["high", "normal", "low"]),
)
Asked = tuple[str, int, int, int, Priority]


def request(number: int, asked: Asked, now: float) -> Request:
    caller, shared, own, answer, priority = asked
    prompt = (*((f"s{n}", 100) for n in range(shared)), (f"own{number}", own))
    return Request(str(number), caller, now, prompt, answer, priority=priority)


@examples(25)
@given(
    st.lists(requests, min_size=1, max_size=25),
    st.integers(2_500, 20_000),
    st.integers(1, 6),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
)
def test_everything_admitted_ends_within_the_memory_and_the_stall_is_kept(
    asked: list[Asked], size: int, rows: int, every: int, holds: bool, mixes: bool
) -> None:
    """The simulated engine itself asserts memory, batch slots, and that chunks go on where the last one ended."""
    limits = Limits(rows=rows, max_stall=0.1, holds=holds, mixes=mixes)
    engine, steps = SimulatedEngine(MACHINE, size, limits), 0
    for number, each in enumerate(asked):
        engine.submit(request(number, each, engine.now))
        for _ in range(every):
            steps += bool(engine.active and engine.step())
    while engine.active:
        engine.step()
        steps += 1
        assert steps < 1_000 * len(asked)
    assert all(life.drawn == life.request.answer for life in engine.lives.values())
    smallest, last = MACHINE.costs.prefill(SMALLEST, 0), MACHINE.costs.per_token + 1e-9
    times = URGENT if len({priority for *_, priority in asked}) > 1 else 1
    longest = ((read, times * max(limits.max_stall, decode)) for read, decode in engine.stalls)
    assert all(read <= max(allowed, smallest) + last for read, allowed in longest)


def flooded(
    prompt: int, *, callers: float, priority: Priority, planned: Callable[[View, float], Plan]
) -> float:
    """Seconds until a prompt has its answer while short ones never stop coming.

    ``callers``: who asks for the short ones in turn; ``inf``: each is of a new caller. One is that of the prompt, too.
    """
    engine, ids = SimulatedEngine(MACHINE, 80_000, Limits(rows=4), planned), count()
    slow = "c0" if callers == 1 else "slow"
    engine.submit(Request("slow", slow, 0.0, (("slow", prompt),), 5, priority=priority))
    for _ in range(20_000):
        while len(engine.view().waiting) < 6:
            number = next(ids)
            caller = f"c{number % callers:.0f}"
            engine.submit(Request(f"f{number}", caller, engine.now, ((f"f{number}", 100),), 8))
        engine.step()
        if engine.lives["slow"].drawn == 5:
            return engine.now
    return inf


@pytest.mark.parametrize("callers", [1, 9, inf])
@pytest.mark.parametrize("prompt", [300, 6_000, 20_000])
@pytest.mark.parametrize("priority", ["normal", "low"])
def test_nobody_waits_for_ever_however_many_short_prompts_come(
    callers: float, prompt: int, priority: Priority
) -> None:
    alone = MACHINE.costs.prefill(prompt, 0)
    waited = flooded(prompt, callers=callers, priority=priority, planned=scheduler.plan)
    assert waited < 20 + 2 * TURNS * alone


@examples(40)
@given(
    st.lists(
        st.tuples(st.sampled_from("xyz"), st.integers(3, 12), st.integers(1, 3)), min_size=2, max_size=6
    ),
    st.integers(0, 1_000),
    st.booleans(),
)
def test_prompts_of_which_only_one_has_room_end_one_after_another(
    asked: list[tuple[str, int, int]], more: int, holds: bool
) -> None:
    """Each is read in several chunks, and whoever begins meanwhile takes what another has read."""
    chunk = 512
    longest = max(chunks for _, chunks, _ in asked) * chunk + GROWTH
    engine = SimulatedEngine(MACHINE, longest + GROWTH + more, Limits(rows=4, chunk=chunk, holds=holds))
    for number, (caller, chunks, answer) in enumerate(asked):
        engine.submit(Request(f"r{number}", caller, 0.0, ((f"p{number}", chunks * chunk),), answer))
    least = sum(chunks + answer for _, chunks, answer in asked)
    assert steps_of(engine, 3 * least + 50) < 3 * least + 50, "they take each other's room for ever"


def steps_of(engine: SimulatedEngine, most: int) -> int:
    steps = 0
    while engine.active and steps < most:
        engine.step()
        steps += 1
    return steps


def test_what_a_prompt_without_room_for_another_has_read_is_lost_once_at_the_most() -> None:
    engine = SimulatedEngine(MACHINE, 12 * 512 + 2 * GROWTH, Limits(rows=4, chunk=512))
    engine.submit(Request("long", "x", 0.0, (("long", 12 * 512),), 1))
    engine.submit(Request("short", "y", 0.0, (("short", 6 * 512),), 1))
    assert steps_of(engine, 100) <= 12 + 6 + TURNS + 2


def test_shortest_first_would_let_a_long_prompt_wait_for_ever() -> None:
    """The play above can fail."""

    def shortest(view: View, now: float) -> Plan:
        return scheduler.plan(replace(view, passes=0), now)

    assert flooded(6_000, callers=1, priority="normal", planned=shortest) == inf


# ---------------------------------------------------------------- any view


@st.composite
def views(draw: st.DrawFn) -> View:
    tasks, before = [], 0
    for number in range(draw(st.integers(0, 12))):
        tokens = draw(st.integers(1, 3_000))
        start = draw(st.sampled_from(["none", "done", "cached"]))
        some = draw(st.integers(0, tokens - 1))
        caller = draw(st.sampled_from("xyz"))
        task = Task(
            id=f"t{number}",
            number=number,
            since=draw(st.integers(0, 200)),
            tokens=tokens,
            asker=Asker(caller, f"{caller}{number % 3}"),
            priority=draw(st.sampled_from(["high", "normal", "low"])),
            sequences=draw(st.sampled_from([1, 1, 1, 3])),
            wanted=draw(st.integers(0, 3)),
            resumed=draw(st.booleans()),
            done=some if start == "done" else 0,
            cached=some if start == "cached" else 0,
            bytes=some if start == "done" else 0,
            shares=draw(st.integers(0, min(before, tokens - 1))),
            scores=draw(st.sampled_from([False, False, True])) and start != "cached",
        )
        tasks.append(task)
        before = tokens - 1
    lengths = draw(st.lists(st.integers(1, 2_000), max_size=10))
    rows = tuple(
        Row(
            f"r{n}",
            Asker(draw(st.sampled_from("xyz")), f"{n}"),
            draw(st.integers(0, 50)),
            draw(st.booleans()),
        )
        for n in range(len(lengths))
    )
    slabs = tuple(SlabSize(1, rounded(length + 1, TOKENS), (length,)) for length in lengths)
    return View(
        step=draw(st.integers(200, 300)),
        waiting=tuple(tasks),
        running=rows,
        memory=Memory(COST, draw(st.integers(500, 30_000)), Slabs(slabs), draw(st.integers(0, 900))),
        costs=Costs(0.01, draw(st.sampled_from([1e-4, 1e-3, 1e-2])), 1e-7, decode=draw(st.floats(0, 0.5))),
        limits=Limits(
            rows=max(3, len(lengths) + draw(st.integers(0, 4))),
            pads=draw(st.booleans()),
            mixes=draw(st.booleans()),
        ),
        used=(("x", draw(st.floats(0, 50))), ("y", 1.0)),
        passes=draw(st.integers(0, 7)),
        read=draw(st.floats(0, 0.3)),
        decoded=draw(st.floats(0, 0.3)),
    )


def held_after(view: View, plan: Plan) -> tuple[int, int]:
    """Batch slots, and bytes, when the plan's pass has run and its prompts have joined."""
    chunks = {chunk.task: chunk for chunk in plan.prefill}
    gone = {place for place, row in enumerate(view.running) if row.id in plan.preempt}
    joining = [task for task in view.waiting if task.id in chunks and chunks[task.id].joins]
    lengths = [task.tokens for task in joining for _ in range(task.sequences)]
    footprint = view.memory.footprint.without(gone)
    arrays = footprint.arrays(lengths, 1, compact=True)
    half = [t for t in view.waiting if t not in joining and t.id not in plan.restart]
    chunked = sum(chunks[t.id].end for t in half if t.id in chunks) + sum(
        t.bytes for t in half if t.id not in chunks
    )
    return len(view.running) - len(gone) + len(lengths), sum(
        rows * tokens for rows, tokens in arrays
    ) + chunked


@examples(60)
@given(views())
def test_the_same_view_gives_the_same_plan_on_one_line(view: View) -> None:
    assert scheduler.plan(view, 9.0) == scheduler.plan(view, 9.0)
    assert "\n" not in str(scheduler.plan(view, 9.0))


@examples(60)
@given(views())
def test_no_plan_exceeds_the_batch_slots_or_the_memory_but_for_one_that_always_fits(view: View) -> None:
    plan = scheduler.plan(view, 9.0)
    rows, size = held_after(view, plan)
    alone = rows <= 1 or (len(view.running) == len(plan.preempt) and len(plan.prefill) == 1)
    assert rows <= max(view.limits.rows, len(view.running))
    kept = view.memory.cache_bytes if plan.cache_bytes is None else plan.cache_bytes
    before = sum(task.bytes for task in view.waiting)
    if not alone and before <= view.memory.size - GROWTH:
        assert size + kept <= view.memory.size


@examples(60)
@given(views())
def test_chunks_go_on_where_the_last_one_ended_and_what_gives_way_does_not_run(view: View) -> None:
    plan, known = scheduler.plan(view, 9.0), {task.id: task for task in view.waiting}
    for chunk in plan.prefill:
        task = known[chunk.task]
        assert task.start == chunk.start <= chunk.end <= task.tokens
        assert chunk.joins == (chunk.end == task.tokens) and chunk.task not in plan.restart
        assert set(chunk.followers) <= set(known) - {chunk.task}
    assert len({chunk.task for chunk in plan.prefill}) == len(plan.prefill)
    assert set(plan.preempt) <= {row.id for row in view.running}


@examples(60)
@given(views())
def test_a_step_is_never_without_work_while_something_waits_or_runs(view: View) -> None:
    plan = scheduler.plan(view, 9.0)
    if not plan.prefill and len(plan.preempt) == len(view.running):
        assert not view.waiting
    assert not plan.hold or plan.prefill
