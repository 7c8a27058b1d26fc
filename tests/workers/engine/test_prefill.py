"""The prefill queue: prompts with a common prefix are neighbours, and the scheduler is shown what they share."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.jobs import job
from workers.engine.figures import WINDOW, Figures
from workers.engine.prefill import PrefillQueue
from workers.engine.scheduling.shared_prefixes import Prefixes
from workers.scripted.engine import RULES
from workers.sequence import TokenRules, TokenSequence
from workers.token_ids import Ids, common_prefix


def add(queue: PrefillQueue, name: str, ids: list[int], namespace: str = "", came: float = math.inf) -> None:
    queue.add(ids, [TokenSequence(job(name, ids, namespace=namespace), 0, RULES)], 0, came)


def queue_of(*prompts: list[int]) -> PrefillQueue:
    queue = PrefillQueue()
    for number, ids in enumerate(prompts):
        add(queue, str(number), ids)
    return queue


def test_prefill_tasks_whose_sequences_have_ended_are_dropped() -> None:
    queue = queue_of([1] * 9, [2] * 9)
    ended, stays = queue.tasks
    ended.sequences[0].ended = True
    assert queue.drop_ended() == [ended]
    assert queue.tasks == [stays]


def test_the_oldest_prompt_that_has_not_begun_tells_how_long_prompts_wait() -> None:
    queue = queue_of()
    add(queue, "old", [1] * 9, came=3.0)
    add(queue, "begun", [2] * 9, came=1.0)
    add(queue, "preempted", [3] * 9)
    [begun] = queue.find(["begun/0"])
    begun.advance([], 4)
    assert queue.waited(10.0) == 7.0
    queue.remove(queue.find(["old/0"]))
    assert queue.waited(10.0) == queue_of().waited(10.0) == 0.0


prompts = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12)


def in_common(one: list[int], other: list[int]) -> int:
    """Of what is prefilled before the last id."""
    pairs = zip(one[:-1], other[:-1], strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)) - 1)


@given(prompts, st.data())
def test_the_scheduler_sees_of_any_two_prompts_what_they_have_in_common(
    ids: list[list[int]], data: st.DataObject
) -> None:
    queue = queue_of(*ids)
    gone = data.draw(st.sets(st.sampled_from(range(len(ids))), max_size=len(ids) - 1))
    queue.remove(queue.find(f"{number}/0" for number in gone))
    shown = queue.shown()
    for first, one in enumerate(queue.tasks):
        for second, other in enumerate(queue.tasks[first + 1 :], first + 1):
            least = min(task.shares for task in shown[first + 1 : second + 1])
            assert least == in_common(one.ids, other.ids)


def test_prompts_of_different_namespaces_have_nothing_in_common() -> None:
    queue = PrefillQueue()
    for name in ("a", "b"):
        add(queue, name, [5] * 100, namespace=name)
    assert [task.shares for task in queue.shown()] == [0, 0]
    assert Prefixes(queue.shown()).lead(queue.shown()[0])[1] == ()


def test_the_prefix_cache_is_asked_again_only_when_it_or_the_queue_has_changed() -> None:
    queue, asked = queue_of([1] * 50, [2] * 50), list[int]()

    def matched(namespace: str, ids: Ids) -> int:
        asked.append(1)
        return 20

    for changes in (1, 1, 2):
        queue.look_up(matched, changes)
    assert len(asked) == 4
    assert [task.cached for task in queue.shown()] == [20, 20]


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2], [1, 2, 4], 2), ([], [1], 0), ([7], [8], 0)],
)
def test_a_common_prefix_is_counted_in_ids(one: list[int], other: list[int], shared: int) -> None:
    assert common_prefix(np.array(one, dtype=np.int32), np.array(other, dtype=np.int32)) == shared


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
