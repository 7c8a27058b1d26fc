"""What is read next, how much of it, and what is read once for all."""

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


def test_the_shortest_rest_is_read_first() -> None:
    queue = waiting(reading("long", [1] * 500), reading("short", [2] * 10), reading("middle", [3] * 50))
    assert names(queue.in_order(0)) == ["short", "middle", "long"]


def test_a_long_prompt_that_has_waited_goes_before_new_short_ones() -> None:
    queue = waiting(reading("long", [1] * 500), reading("short", [2] * 10, since=500 // AGEING + 1))
    assert names(queue.in_order(500 // AGEING + 1)) == ["long", "short"]


def test_readings_nobody_waits_for_are_dropped() -> None:
    left = reading("left", [1] * 9)
    queue = waiting(left, reading("stays", [1] * 9))
    left.sequences[0].ended = True
    assert names(queue.drop_ended()) == ["left"]
    assert names(queue.in_order(0)) == ["stays"]


def test_a_prompt_is_kept_at_its_boundaries_but_not_for_a_few_tokens() -> None:
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


def test_a_pause_for_others_may_come_before_a_boundary() -> None:
    ids = [1] * 300
    prompt = PrefillTask(ids, [TokenSequence(job("a", ids, checkpoints=[200]), 0, RULES)], 0)
    prompt.pause = 100
    assert prompt.stop == 100


SHARED = [5] * WORTH


def test_the_first_pauses_where_the_others_go_their_own_way_and_they_wait_for_it() -> None:
    first, second, other = (
        reading("1", [*SHARED, 1, 1]),
        reading("2", [*SHARED, 2, 2]),
        reading("3", [9] * 70),
    )
    queue = waiting(first, second, other)
    queue.lead(first)
    assert (first.pause, second.blocked, other.blocked) == (len(SHARED), True, False)
    assert names(queue.in_order(0)) == ["1", "3"]


def test_the_others_are_free_when_the_beginning_is_read_or_its_reader_leaves() -> None:
    first, second = reading("1", [*SHARED, 1, 1]), reading("2", [*SHARED, 2, 2])
    waiting(first, second).lead(first)
    first.sequences[0].ended = True
    assert not second.blocked
    first.sequences[0].ended = False
    first.pause = None
    assert not second.blocked


def test_a_short_common_beginning_is_not_worth_a_pause() -> None:
    first, second = reading("1", [5] * 20 + [1, 1]), reading("2", [5] * 20 + [2, 2])
    waiting(first, second).lead(first)
    assert first.pause is None and not second.blocked


def test_many_that_share_little_are_worth_a_pause_too() -> None:
    tasks = [reading(str(i), [5] * 20 + [i, i]) for i in range(WORTH // 20 + 2)]
    waiting(*tasks).lead(tasks[0])
    assert tasks[0].pause == 20


def test_namespaces_do_not_wait_for_each_other() -> None:
    first, second = reading("1", [*SHARED, 1, 1]), reading("2", [*SHARED, 2, 2], namespace="other")
    waiting(first, second).lead(first)
    assert first.pause is None


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 4], 2), ([], [1], 0), ([7], [8], 0)],
)
def test_a_common_prefix_is_counted_in_ids(one: list[int], other: list[int], shared: int) -> None:
    assert common_prefix(np.array(one, dtype=np.int32), np.array(other, dtype=np.int32)) == shared


def test_alone_a_prompt_is_read_in_the_largest_chunks() -> None:
    assert PrefillBudget(512, 0.2).budget(beside_decode=False) == 512


def calibrated(budget: PrefillBudget, fixed: float, per_token: float, per_look: float = 0.0) -> PrefillBudget:
    budget._fixed, budget._per_token, budget._per_look = fixed, per_token, per_look
    return budget


def test_beside_decoding_rows_a_pass_takes_no_longer_than_the_gap() -> None:
    budget = calibrated(PrefillBudget(512, 0.4), fixed=0.08, per_token=0.004)
    assert budget.budget(beside_decode=True) == pytest.approx(80, abs=1)


def test_where_a_decode_step_takes_longer_than_the_gap_a_pass_may_take_as_long() -> None:
    budget = calibrated(PrefillBudget(512, 0.2), fixed=0.08, per_token=0.004)
    budget.decoded(0.48)
    assert budget.budget(beside_decode=True) == pytest.approx(100, abs=1)


def test_the_further_a_pass_looks_back_the_less_it_reads() -> None:
    budget = calibrated(PrefillBudget(512, 0.4), fixed=0.08, per_token=0.002, per_look=1e-6)
    assert budget.budget(beside_decode=True) == pytest.approx(160, abs=1)
    assert budget.budget(beside_decode=True, behind=2000) == pytest.approx(80, abs=1)


def test_that_a_pass_looked_far_back_does_not_make_the_machine_slow() -> None:
    budget = calibrated(PrefillBudget(512, 0.4), fixed=0.08, per_token=0.002, per_look=1e-6)
    for _ in range(40):
        budget.measured(80, 2000, 0.4)
    assert budget.budget(beside_decode=True) == pytest.approx(160, abs=1)


def test_what_looking_back_costs_is_measured_before_the_first_request(
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


def test_a_machine_that_has_become_slower_reads_less_at_a_time() -> None:
    budget = calibrated(PrefillBudget(512, 0.2), fixed=0.01, per_token=0.001)
    for _ in range(40):
        budget.measured(100, 0, 2 * 0.11)
    assert budget.budget(beside_decode=True) == pytest.approx(90, abs=1)


def test_a_pass_is_never_smaller_than_what_costs_the_same() -> None:
    assert (
        calibrated(PrefillBudget(512, 0.2), fixed=1.0, per_token=0.01).budget(beside_decode=True) == SMALLEST
    )


def test_a_full_batch_lets_a_prompt_wait_a_few_steps_for_others_and_a_small_one_does_not() -> None:
    budget = PrefillBudget(512, 0.2)
    assert budget.waits_for_more(sequences=32, prompts=1, oldest=0)
    assert not budget.waits_for_more(sequences=32, prompts=1, oldest=PATIENCE)
    assert not budget.waits_for_more(sequences=32, prompts=4, oldest=0)
    assert not budget.waits_for_more(sequences=8, prompts=1, oldest=0)


def test_a_rate_is_of_the_last_seconds_only() -> None:
    rate = Figures()
    rate.count(1000, 0.0)
    rate.count(50, 100.0)
    assert rate.per_second(100.0) == 50 / WINDOW
    assert rate.per_second(200.0) == 0


def test_a_row_tells_its_start_once_and_its_end_once() -> None:
    row = TokenSequence(job("a", [1, 2, 3], max_tokens=2), 0, TokenRules([b"a", b"b"], frozenset()))
    first, last = row.push(0, None).delta, row.push(1, None).delta
    assert first.start is not None and first.start.prompt_tokens == 3 and last.start is None
    assert first.finish is None and last.finish is not None and row.ended
