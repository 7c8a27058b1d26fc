"""What the scheduler plans: plays of views and plans, without MLX, arrays or a clock."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shared.key_terms import Priority
from tests.scheduler.views import memory, plan, read, row, task, view
from workers.engine.scheduling import scheduler
from workers.engine.scheduling.order import TURN, TURNS
from workers.engine.scheduling.plan import SMALLEST, WORTH, Chunk, Costs, Limits, Plan, Row, Task
from workers.engine.scheduling.scheduler import HOLD, PASSED, PATIENCE, PROMPTS_AT_ONCE, YIELD
from workers.engine.scheduling.shared_prefixes import Prefixes

ROOT = Path(__file__).parents[2]


def test_a_plan_is_made_without_mlx() -> None:
    asked = "import sys, tests.scheduler.test_plan as plays; print([m for m in sys.modules if m.startswith('mlx')])"
    ran = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_plan_prints_itself_on_one_line() -> None:
    chunk = Chunk("a", 0, 64, pause=64, followers=("b", "c"))
    whole = Plan(("r",), ("t",), True, 5, (chunk, Chunk("d", 3, 9, joins=True)), True)
    assert str(whole) == "preempt r; restart t; prefill a[0:64]>64:b,c d[3:9!]; cache 5; compact; hold"
    assert str(Plan()) == "decode"


# ---------------------------------------------------------------- order


def test_the_prompt_with_fewest_tokens_left_is_prefilled_first() -> None:
    waiting = task("long", 500, "x"), task("short", 10, "x"), task("middle", 50, "x")
    assert read(plan(*waiting, limits=Limits(batches=False))) == ["short"]
    assert read(plan(*waiting)) == ["short", "middle", "long"]


def test_tokens_that_the_prefix_cache_has_are_not_left() -> None:
    assert read(plan(task("long", 500, "x", cached=490), task("short", 20, "x"), row("r")))[0] == "long"


def test_every_fourth_pass_is_the_oldest_prompts_and_no_longer_wait_changes_the_others() -> None:
    waiting = task("old", 5000, "x"), task("new", 10, "x", since=900)
    firsts = [read(plan(*waiting, step=1000, passes=number))[0] for number in range(2 * TURNS)]
    assert firsts == [*["new"] * (TURNS - 1), "old"] * 2


def test_the_turn_of_the_oldest_is_of_the_callers_that_had_least_of_the_machine() -> None:
    waiting = task("bulk", 900, "rich"), task("chat", 500, "poor", since=5), task("short", 10, "new", since=9)

    def first(**used: float) -> str:
        return read(plan(*waiting, step=10, passes=TURNS - 1, used=tuple(used.items())))[0]

    assert first(rich=0.9 * TURN, poor=0.1) == "bulk"  # equals: the oldest
    assert first(rich=40.0, poor=1.0) == "chat"
    assert (
        first(rich=30.0, poor=29.0, other=10.0) == "bulk"
    )  # both had less than half as much again as the mean


def test_the_turn_of_the_oldest_comes_whatever_its_priority() -> None:
    waiting = task("low", 900, "x", priority="low"), task("high", 10, "y", priority="high", since=5)
    assert read(plan(*waiting, step=6, passes=0))[0] == "high"
    assert read(plan(*waiting, step=6, passes=TURNS - 1))[0] == "low"


def test_the_caller_with_fewer_sequences_is_next() -> None:
    waiting = task("one", 10, "rich"), task("other", 90, "poor")
    assert read(plan(*waiting, row("r", "rich"), limits=Limits(rows=2))) == ["other"]


def test_for_a_caller_that_waits_in_vain_the_youngest_of_the_richest_leaves() -> None:
    rows = row("old", "rich", drawn=9), row("young", "rich", drawn=2)
    full = Limits(rows=2)
    assert plan(task("a", 10, "poor"), *rows, step=YIELD - 1, limits=full) == Plan()
    left = plan(task("a", 10, "poor"), *rows, step=YIELD, limits=full)
    assert (left.preempt, read(left)) == (("young",), ["a"])


def test_no_sequence_leaves_for_a_caller_that_has_one_itself() -> None:
    rows = row("a", "rich"), row("b", "rich"), row("c", "poor")
    assert plan(task("d", 10, "poor"), *rows, step=YIELD, limits=Limits(rows=3)).preempt == ()


# ---------------------------------------------------------------- passes


def test_a_prompt_without_decoding_sequences_is_prefilled_in_the_largest_chunks() -> None:
    assert plan(task("a", 2000)).prefill == (Chunk("a", 0, 512),)


def test_beside_decoding_sequences_a_prefill_pass_takes_at_most_max_stall() -> None:
    costs, limits = Costs(fixed=0.08, per_token=0.004), Limits(max_stall=0.4)
    assert plan(task("a", 2000), row("r"), costs=costs, limits=limits).prefill == (Chunk("a", 0, 80),)


def test_sequences_decode_until_prefill_has_no_more_than_its_share_of_the_time() -> None:
    limits, costs = Limits(read_share=0.75), Costs(decode=0.02)

    def after(read: float, decoded: float) -> Plan:
        return plan(task("a"), row("r"), read=read, decoded=decoded, limits=limits, costs=costs)

    since = [after(0.2, decoded) for decoded in (0.0, 0.06, 0.07)]
    assert [read(each) for each in since] == [[], [], ["a"]]
    assert read(plan(task("a"), row("r", begun=False), read=0.2, limits=limits)) == [
        "a"
    ]  # nothing is stalled
    assert read(plan(task("a"), read=0.2, limits=limits)) == ["a"]


def test_a_prefill_pass_may_take_as_long_as_a_decode_step() -> None:
    costs = Costs(fixed=0.08, per_token=0.004, decode=0.48)
    assert plan(task("a", 2000), row("r"), costs=costs).prefill[0].end in (99, 100)


def test_a_prefill_pass_with_a_longer_context_has_fewer_tokens() -> None:
    costs, limits = Costs(fixed=0.08, per_token=0.002, per_look=1e-6), Limits(max_stall=0.4)
    first = plan(task("a", 9000), row("r"), costs=costs, limits=limits).prefill[0]
    later = plan(task("a", 9000, done=2000), row("r"), costs=costs, limits=limits).prefill[0]
    assert (first.end - first.start, later.end - later.start) == (160, 80)


def test_a_slow_machine_gets_smaller_passes_but_never_tiny_ones() -> None:
    costs = Costs(fixed=0.01, per_token=0.001, slowness=2.0)
    assert plan(task("a", 2000), row("r"), costs=costs).prefill == (Chunk("a", 0, 90),)
    slowest = Costs(fixed=1.0, per_token=0.01)
    assert plan(task("a", 2000), row("r"), costs=slowest).prefill == (Chunk("a", 0, SMALLEST),)


def test_a_first_token_held_counts_as_no_decoding_sequence() -> None:
    assert plan(task("a", 2000), row("r", begun=False)).prefill == (Chunk("a", 0, 512),)


def test_short_prompts_share_a_pass_while_their_padding_fits() -> None:
    short = [task(f"s{number}", 150 + number) for number in range(12)]
    together = plan(*short)
    assert read(together) == [each.id for each in short[:9]]  # at most 3 x 512 tokens, padded
    assert all(chunk.joins for chunk in together.prefill)


def test_prompts_of_unlike_length_are_apart_where_the_model_cannot_pad() -> None:
    waiting = task("a", 50), task("b", 50), task("c", 51)
    assert read(plan(*waiting, limits=Limits(pads=False))) == ["a", "b"]


def test_a_model_that_serves_one_at_a_time_reads_one_at_a_time() -> None:
    assert read(plan(task("a", 50), task("b", 50), limits=Limits(rows=1, batches=False))) == ["a"]


def test_prompts_of_unlike_context_are_padded_behind_the_longest_and_cost_its_looks() -> None:
    costs = Costs(fixed=0.0, per_token=0.001, per_look=1e-6)
    waiting = task("new", 90), task("on", 985, cached=900)
    assert read(plan(*waiting, row("r"), costs=costs)) == ["on"]
    assert len(read(plan(*waiting, row("r"), costs=Costs(fixed=0.0, per_token=0.001)))) == 2


def test_prompts_behind_contexts_of_unlike_length_are_apart_where_passes_are_bound_by_what_they_compute() -> (
    None
):
    waiting = [
        task("new", 90),
        task("on", 984, cached=895),
        task("on too", 990, cached=895),
        task("other", 95),
    ]
    assert read(plan(*waiting)) == ["on", "new", "on too", "other"]
    apart = Limits(mixes=False)
    assert read(plan(*waiting, limits=apart)) == ["on", "on too"]
    assert read(plan(waiting[0], waiting[3], limits=apart)) == ["new", "other"]


def test_few_tokens_behind_contexts_of_unlike_length_share_a_pass_that_is_no_longer_for_it() -> None:
    """Each pass over the weights takes as long as one over a hundred tokens."""
    waiting = [task(f"{start}", start + 30, cached=start) for start in (100, 200, 300, 400)]
    costs = Costs(per_token=0.001, floor=0.1)
    assert len(read(plan(*waiting, costs=costs, limits=Limits(mixes=False)))) == 3
    assert len(read(plan(*waiting, costs=replace(costs, floor=0.02), limits=Limits(mixes=False)))) == 1


def test_a_scored_prompt_is_prefilled_alone() -> None:
    scored = plan(task("a", 50, scores=True), task("b", 60))
    assert scored.prefill == (Chunk("a", 0, 49),)
    assert read(plan(task("a", 50), task("b", 60, scores=True))) == ["a"]


def test_a_full_batch_waits_a_few_steps_so_that_prompts_share_a_pass() -> None:
    rows = [row(f"r{number}") for number in range(32)]
    limits = Limits(rows=64)
    assert read(plan(task("a"), *rows, step=0, limits=limits)) == []
    assert read(plan(task("a"), *rows, step=PATIENCE, limits=limits)) == ["a"]
    assert read(plan(*(task(str(n)) for n in range(4)), *rows, step=0, limits=limits)) != []
    assert read(plan(task("a"), *rows[:8], step=0, limits=limits)) == ["a"]


# ---------------------------------------------------------------- prefixes


def test_a_step_beside_decoding_sequences_has_one_pass_where_passes_run_in_turn() -> None:
    """First tokens go out before the decode pass, and what comes meanwhile does not wait for it."""
    assert plan(task("a"), row("r")).pause
    assert not plan(row("r")).pause, "there is no prefill pass"
    assert not plan(task("a"), row("r", begun=False)).pause, "no sequence decodes yet"
    assert not plan(task("a"), row("r"), limits=Limits(holds=False)).pause, (
        "it has launched its decode pass before"
    )


def test_a_prefill_pass_is_followed_by_a_decode_pass_even_if_its_cost_is_not_known() -> None:
    assert read(plan(task("a"), row("r"), read=0.2, costs=Costs(decode=0.0))) == []
    assert read(plan(task("a"), row("r"), read=0.2, decoded=0.1, costs=Costs(decode=0.0))) == ["a"]


def test_the_first_of_several_prompts_pauses_at_the_end_of_their_shared_prefix() -> None:
    other, first, second = task("3", 500), task("1", WORTH + 3), task("2", WORTH + 4, shares=WORTH)
    assert plan(other, first, second).prefill == (Chunk("1", 0, WORTH, pause=WORTH, followers=("2",)),)


def test_followers_wait_until_the_prefix_is_prefilled_or_its_task_is_gone() -> None:
    leader = task("1", 900, pause=600, done=512)
    follower = task("2", 700, shares=600, leader="1")
    assert plan(follower, leader).prefill == (Chunk("1", 512, 600),)
    assert read(plan(follower)) == ["2"]
    rest = task("1", 900, done=600)
    assert read(plan(rest, task("2", 700, shares=600, cached=600, leader="1"))) == ["2", "1"]


def test_a_pause_is_set_where_most_is_saved() -> None:
    few = [task(str(number), 900, shares=200) for number in range(5)]
    deep = task("deep", 905, shares=500)
    led, followers = Prefixes(view(*few, deep).waiting).lead(few[0])
    assert (led.pause, len(followers)) == (200, 5)
    alone, followers = Prefixes(view(few[0], deep).waiting).lead(few[0])
    assert (alone.pause, followers) == (500, ("deep",))


def test_a_short_shared_prefix_is_worth_a_pause_only_for_many() -> None:
    def waiting(count: int) -> list[Task]:
        return [task(str(number), 22, shares=20) for number in range(count)]

    assert all(chunk.pause is None for chunk in plan(*waiting(2)).prefill)
    assert plan(*waiting(WORTH // 20 + 2)).prefill[0].pause == 20


def test_a_prefix_that_another_has_begun_behind_is_not_shared() -> None:
    assert (
        Prefixes(view(task("a", 300), task("b", 300, shares=200, done=90)).waiting).lead(task("a", 300))[1]
        == ()
    )


def test_a_prompt_is_stored_at_its_checkpoints_but_not_for_a_few_tokens() -> None:
    few, far = WORTH - 1, WORTH + 100
    prompt = task("a", far + 200, checkpoints=(few, far, far + few, far + WORTH))
    assert prompt.stop == far
    assert task("a", far + 200, checkpoints=prompt.checkpoints, done=far - 5).stop == far
    assert task("a", far + 200, checkpoints=prompt.checkpoints, done=far, kept=far).stop == far + WORTH
    assert not task("a", far + 200, checkpoints=prompt.checkpoints, done=far + WORTH, kept=far).stops
    assert task("a", far + 200, checkpoints=prompt.checkpoints, pause=100).stop == 100


# ---------------------------------------------------------------- memory


def test_a_prompt_begins_only_if_all_of_it_fits() -> None:
    need = 356 + (200 + 256)  # the row with its growth, and the prompt's own cache
    assert read(plan(task("a", 200), row("r"), memory=memory(2 * (200 + 384), 99))) == ["a"]
    assert read(plan(task("a", 200), row("r"), memory=memory(need, 99))) == []


def test_the_prefix_cache_gives_way_before_a_prompt_waits() -> None:
    size = 2 * (200 + 384)
    full = plan(task("a", 200), row("r"), memory=memory(size + 50, 99, cache_bytes=400))
    assert (read(full), full.cache_bytes, full.compact) == (["a"], 50, False)
    assert plan(task("a", 200), row("r"), memory=memory(size + 400, 99, cache_bytes=400)).cache_bytes is None


def test_a_prompt_that_cannot_fit_evicts_nothing() -> None:
    need = plan(task("a", 900), row("r"), memory=memory(1000, 99, cache_bytes=400))
    assert need == Plan()


def test_the_youngest_sequence_leaves_when_the_others_cannot_grow() -> None:
    rows = row("a", drawn=9), row("b", drawn=3), row("c", drawn=5)
    assert plan(*rows, memory=memory(3 * 356, 99, 99, 99)) == Plan()
    assert plan(*rows, memory=memory(2 * 356, 99, 99, 99)).preempt == ("b",)
    assert plan(*rows, memory=memory(1, 99, 99, 99)).preempt == ("b", "c")


@pytest.mark.parametrize("passes", range(TURNS))
@pytest.mark.parametrize("priority", ["normal", "low"])
def test_a_prompt_that_is_being_read_is_not_given_up_for_a_younger_one(
    passes: int, priority: Priority
) -> None:
    """Two that took each other's room in turn would never end."""
    read_first = task("a", 300, bytes=320, done=64)
    younger = task("b", 60, priority=priority)
    for others in ([younger], [younger, task("c", 50)]):
        found = plan(read_first, *others, memory=memory(600), passes=passes)
        assert (found.restart, read(found)) == ((), ["a"])
    urgent = plan(read_first, task("b", 60, priority="high"), memory=memory(600))
    assert (urgent.restart, read(urgent)) == (("a",), ["b"])


def test_half_prefilled_prompts_give_way_to_the_last_sequence_and_to_the_oldest_prompt() -> None:
    half = task("half", 300, bytes=400, done=200)
    assert plan(half, row("r"), memory=memory(500, 99)).restart == ("half",)
    older = plan(task("a", 60), half, memory=memory(450))
    assert (older.restart, read(older)) == (("half",), ["a"])
    younger = plan(half, task("a", 60), memory=memory(450))
    assert (younger.restart, read(younger)) == ((), ["half"])


def test_a_smaller_prompt_passes_one_that_does_not_fit_for_a_limited_time() -> None:
    waiting = task("large", 900, "x"), task("small", 200, "y", since=95)
    rows = row("r", "y"), row("s", "y")
    short = memory(3 * (200 + 384), 99, 99)
    assert read(plan(*waiting, *rows, memory=short, step=YIELD - 1)) == ["small"]
    assert read(plan(*waiting, row("r", "y"), memory=memory(1300, 99), step=PASSED)) == []


def test_hundreds_that_do_not_fit_cost_one_check() -> None:
    class Counted:
        asked = 0

        def arrays(self, joining: object, more: int, *, compact: bool) -> list[tuple[int, int]]:
            self.asked += bool(joining)
            return [(1, 10_000)]

        def without(self, rows: object) -> "Counted":
            return self

    counted = Counted()
    seen = view(*(task(str(n)) for n in range(300)), row("r"), memory=memory(1_000))
    object.__setattr__(seen.memory, "footprint", counted)
    assert scheduler.plan(seen, 0.0).prefill == ()
    assert counted.asked <= 8


# ---------------------------------------------------------------- first tokens


def fresh(id: str = "r") -> Row:
    return row(id, begun=False, drawn=1)


def test_first_tokens_are_held_while_prompts_are_prefilled_beside_them() -> None:
    more = [task(f"t{number}", 500) for number in range(4)]
    assert plan(fresh(), *more).hold
    assert plan(*more).hold  # those that this pass lets join
    assert not plan(fresh()).hold  # nothing is read
    assert not plan(row("r"), *more).hold  # a client has tokens


def test_first_tokens_are_not_held_on_an_accelerator() -> None:
    assert not plan(fresh(), task("a"), limits=Limits(holds=False)).hold


def test_first_tokens_are_held_for_a_limited_time() -> None:
    limit = HOLD * Limits().max_stall
    assert plan(fresh(), task("a"), fresh_since=5.0, now=5.0 + 0.9 * limit).hold
    assert not plan(fresh(), task("a"), fresh_since=5.0, now=5.0 + limit).hold


def test_first_tokens_are_not_held_for_a_long_prompt() -> None:
    long = PROMPTS_AT_ONCE * Limits().chunk + 2
    assert plan(fresh(), task("a", long + 511)).hold  # what is left after this pass is not long
    assert not plan(fresh(), task("a", long + 512)).hold


def test_sequences_that_end_with_their_first_token_are_not_held() -> None:
    assert not plan(task("a", wanted=1)).hold
    assert plan(task("a", wanted=2)).hold
    assert plan(task("a", wanted=1), limits=Limits(last_logits=False)).hold


@pytest.mark.parametrize("joined", [True, False])
def test_a_resumed_sequence_is_not_held(joined: bool) -> None:
    assert plan(task("a", resumed=joined), task("b")).hold is not joined
