"""The prefill queue: which prompt runs next, how many tokens a pass has, and which prefixes are shared."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.jobs import job
from workers.engine import prefill_budget
from workers.engine.figures import WINDOW, Figures
from workers.engine.prefill import AGEING, WORTH, PrefillQueue, PrefillTask
from workers.engine.prefill_budget import PATIENCE, SMALLEST, PrefillBudget
from workers.scripted.engine import RULES
from workers.sequence import TokenRules, TokenSequence
from workers.token_ids import common_prefix


def reading(name: str, ids: list[int], since: int = 0, namespace: str = "") -> PrefillTask:
    return PrefillTask(ids, [TokenSequence(job(name, ids, namespace=namespace), 0, RULES)], since)


def waiting(*tasks: PrefillTask) -> PrefillQueue:
    queue = PrefillQueue()
    for each in tasks:
        queue.add(each)
    return queue


def names(tasks: list[PrefillTask]) -> list[str]:
    return [each.sequences[0].job.request_id for each in tasks]


def test_the_prompt_with_fewest_tokens_left_is_prefilled_first() -> None:
    queue = waiting(reading("long", [1] * 500), reading("short", [2] * 10), reading("middle", [3] * 50))
    assert names(queue.in_order(0)) == ["short", "middle", "long"]


def test_a_long_prompt_that_has_waited_goes_before_new_short_ones() -> None:
    queue = waiting(reading("long", [1] * 500), reading("short", [2] * 10, since=500 // AGEING + 1))
    assert names(queue.in_order(500 // AGEING + 1)) == ["long", "short"]


def test_prefill_tasks_whose_sequences_have_ended_are_dropped() -> None:
    left = reading("left", [1] * 9)
    queue = waiting(left, reading("stays", [1] * 9))
    left.sequences[0].ended = True
    assert names(queue.drop_ended()) == ["left"]
    assert names(queue.in_order(0)) == ["stays"]


def test_the_oldest_prompt_that_has_not_begun_tells_how_long_prompts_wait() -> None:
    old, begun, preempted = (reading(name, [1] * 9) for name in ("old", "begun", "preempted"))
    old.came, begun.came = 3.0, 1.0
    begun.advance([], 4)
    assert waiting(begun, old, preempted).waited(10.0) == 7.0
    assert waiting(begun, preempted).waited(10.0) == waiting().waited(10.0) == 0.0


def test_a_prompt_is_stored_at_its_checkpoints_but_not_for_a_few_tokens() -> None:
    few, far = WORTH - 1, WORTH + 100
    ids, checkpoints = [1] * (far + 200), [few, far, far + few, far + WORTH]
    prompt = PrefillTask(ids, [TokenSequence(job("a", ids, checkpoints=checkpoints), 0, RULES)], 0)
    assert prompt.stop == far
    prompt.advance([], far - 5)
    assert prompt.stop == far
    prompt.advance([], 5)
    prompt.kept = far
    assert prompt.stop == far + WORTH
    prompt.advance([], WORTH)
    assert not prompt.stops


def test_a_pause_for_a_shared_prefix_may_come_before_a_checkpoint() -> None:
    ids = [1] * 300
    prompt = PrefillTask(ids, [TokenSequence(job("a", ids, checkpoints=[200]), 0, RULES)], 0)
    prompt.pause = 100
    assert prompt.stop == 100


SHARED = [5] * WORTH


def test_the_first_of_several_prompts_pauses_at_the_end_of_their_shared_prefix() -> None:
    first, second, other = (
        reading("1", [*SHARED, 1, 1]),
        reading("2", [*SHARED, 2, 2]),
        reading("3", [9] * 70),
    )
    queue = waiting(first, second, other)
    queue.lead(first)
    assert (first.pause, second.blocked, other.blocked) == (len(SHARED), True, False)
    assert names(queue.in_order(0)) == ["1", "3"]


def test_prompts_stop_waiting_when_the_shared_prefix_is_prefilled_or_its_task_is_cancelled() -> None:
    first, second = reading("1", [*SHARED, 1, 1]), reading("2", [*SHARED, 2, 2])
    waiting(first, second).lead(first)
    first.sequences[0].ended = True
    assert not second.blocked
    first.sequences[0].ended = False
    first.pause = None
    assert not second.blocked


def test_a_short_shared_prefix_is_not_worth_a_pause() -> None:
    first, second = reading("1", [5] * 20 + [1, 1]), reading("2", [5] * 20 + [2, 2])
    waiting(first, second).lead(first)
    assert first.pause is None and not second.blocked


def test_many_prompts_with_a_short_shared_prefix_are_worth_a_pause() -> None:
    tasks = [reading(str(i), [5] * 20 + [i, i]) for i in range(WORTH // 20 + 2)]
    waiting(*tasks).lead(tasks[0])
    assert tasks[0].pause == 20


def test_prompts_of_different_namespaces_do_not_wait_for_each_other() -> None:
    first, second = reading("1", [*SHARED, 1, 1]), reading("2", [*SHARED, 2, 2], namespace="other")
    waiting(first, second).lead(first)
    assert first.pause is None


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 4], 2), ([], [1], 0), ([7], [8], 0)],
)
def test_a_common_prefix_is_counted_in_ids(one: list[int], other: list[int], shared: int) -> None:
    assert common_prefix(np.array(one, dtype=np.int32), np.array(other, dtype=np.int32)) == shared


def test_a_prompt_without_decoding_sequences_is_prefilled_in_the_largest_chunks() -> None:
    assert PrefillBudget(512, 0.2).budget(beside_decode=False) == 512


def calibrated(budget: PrefillBudget, fixed: float, per_token: float, per_look: float = 0.0) -> PrefillBudget:
    budget._fixed, budget._per_token, budget._per_look = fixed, per_token, per_look
    return budget


def test_beside_decoding_sequences_a_prefill_pass_takes_at_most_max_stall() -> None:
    budget = calibrated(PrefillBudget(512, 0.4), fixed=0.08, per_token=0.004)
    assert budget.budget(beside_decode=True) == pytest.approx(80, abs=1)


def test_a_prefill_pass_may_take_as_long_as_a_decode_step() -> None:
    budget = calibrated(PrefillBudget(512, 0.2), fixed=0.08, per_token=0.004)
    budget.decoded(0.48)
    assert budget.budget(beside_decode=True) == pytest.approx(100, abs=1)


def test_a_prefill_pass_with_a_longer_context_has_fewer_tokens() -> None:
    budget = calibrated(PrefillBudget(512, 0.4), fixed=0.08, per_token=0.002, per_look=1e-6)
    assert budget.budget(beside_decode=True) == pytest.approx(160, abs=1)
    assert budget.budget(beside_decode=True, behind=2000) == pytest.approx(80, abs=1)


def test_a_pass_with_a_long_context_does_not_count_as_a_slow_machine() -> None:
    budget = calibrated(PrefillBudget(512, 0.4), fixed=0.08, per_token=0.002, per_look=1e-6)
    for _ in range(40):
        budget.measured(80, 2000, 0.4)
    assert budget.budget(beside_decode=True) == pytest.approx(160, abs=1)


def test_the_cost_of_context_is_measured_before_the_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def read(behind: int, tokens: int) -> None:
        nonlocal now
        now += 0.08 + tokens * (0.002 + 1e-6 * behind)

    monkeypatch.setattr(prefill_budget, "time", SimpleNamespace(perf_counter=lambda: now))
    budget = PrefillBudget(512, 0.4)
    budget.calibrate(lambda behind: behind, read, full_attention=True)
    assert budget.budget(beside_decode=True) == pytest.approx(160, abs=1)
    assert budget.budget(beside_decode=True, behind=2000) == pytest.approx(80, abs=1)


def test_a_machine_that_has_become_slower_gets_smaller_prefill_passes() -> None:
    budget = calibrated(PrefillBudget(512, 0.2), fixed=0.01, per_token=0.001)
    for _ in range(40):
        budget.measured(100, 0, 2 * 0.11)
    assert budget.budget(beside_decode=True) == pytest.approx(90, abs=1)


def test_a_prefill_pass_is_never_smaller_than_the_smallest_worthwhile_size() -> None:
    assert (
        calibrated(PrefillBudget(512, 0.2), fixed=1.0, per_token=0.01).budget(beside_decode=True) == SMALLEST
    )


def test_a_full_batch_delays_a_prompt_a_few_steps_so_that_others_join_its_pass() -> None:
    budget = PrefillBudget(512, 0.2)
    assert budget.waits_for_more(sequences=32, prompts=1, oldest=0)
    assert not budget.waits_for_more(sequences=32, prompts=1, oldest=PATIENCE)
    assert not budget.waits_for_more(sequences=32, prompts=4, oldest=0)
    assert not budget.waits_for_more(sequences=8, prompts=1, oldest=0)


def test_tokens_per_second_counts_only_the_last_seconds() -> None:
    rate = Figures()
    rate.count(1000, 0.0)
    rate.count(50, 100.0)
    assert rate.per_second(100.0) == 50 / WINDOW
    assert rate.per_second(200.0) == 0


def test_a_sequence_emits_one_start_and_one_finish() -> None:
    row = TokenSequence(job("a", [1, 2, 3], max_tokens=2), 0, TokenRules([b"a", b"b"], frozenset()))
    first, last = row.push(0, None).delta, row.push(1, None).delta
    assert first.start is not None and first.start.prompt_tokens == 3 and last.start is None
    assert first.finish is None and last.finish is not None and row.ended
