"""The token ids and attempts of one request, as the api tracks them."""

import pytest

from api.generation.received import ACK_TOKENS, Gap, Received
from shared.errors import ModelChanged
from shared.protocol import (
    Ack,
    Delta,
    Finish,
    FinishReason,
    Generation,
    Sampling,
    Start,
    TextPrompt,
)


def received(n: int = 1, first_choice: int = 0) -> Received:
    generation = Generation(prompt=TextPrompt(text="Hi"), sampling=Sampling(seed=1), n=n)
    one = Received("r", "tiny", generation, first_choice)
    one.submit()
    return one


def delta(
    index: int, *ids: int, attempt: int = 1, choice: int = 0, end: bool = False, start: Start | None = None
) -> Delta:
    finish = Finish(reason=FinishReason.STOP, completion_tokens=9) if end else None
    return Delta(
        request_id="r",
        attempt=attempt,
        choice=choice,
        index=index,
        ids=list(ids),
        start=start,
        finish=finish,
    )


def test_each_submit_is_a_new_attempt_with_the_token_ids_received() -> None:
    one = received(n=2)
    one.take(delta(0, 5, 6, choice=1))
    again = one.submit()
    assert (again.attempt, again.held) == (2, [[], [5, 6]])


def test_a_first_submit_has_no_token_ids() -> None:
    assert Received("r", "tiny", received()._task).submit().held == []


def test_a_delta_of_another_attempt_is_dropped() -> None:
    one = received()
    one.submit()
    assert one.take(delta(0, 5, attempt=1)) is None
    assert one.take(delta(0, 5, attempt=2)) is not None


def test_a_delta_with_old_tokens_only_is_dropped() -> None:
    one = received()
    one.take(delta(0, 5, 6))
    assert one.take(delta(0, 5, 6)) is None
    assert one.take(delta(1, 6)) is None


@pytest.mark.parametrize("late", [delta(3, 8), delta(1, 6, 7), delta(0, 5, 6, end=True)])
def test_a_delta_that_does_not_begin_at_the_next_token_is_a_gap(late: Delta) -> None:
    one = received()
    one.take(delta(0, 5, 6))
    with pytest.raises(Gap):
        one.take(late)


def test_a_request_is_finished_with_its_last_choice() -> None:
    one = received(n=2)
    one.take(delta(0, 5, end=True))
    assert one.take(delta(1, end=True)) is None
    assert not one.finished
    one.take(delta(0, 5, choice=1, end=True))
    assert one.finished


def test_a_delta_of_a_choice_that_does_not_exist_is_dropped() -> None:
    assert received().take(delta(0, 5, choice=3)) is None


def test_a_resumed_choice_starts_once_for_the_client() -> None:
    one = received()
    start = Start(prompt_tokens=3, prompt_text="Hi")
    first = one.take(delta(0, 5, start=start))
    one.submit()
    resumed = one.take(delta(1, 6, attempt=2, start=start))
    assert first is not None
    assert first.start == start
    assert resumed is not None
    assert resumed.start is None


def test_choices_of_later_prompts_are_renumbered_for_the_client() -> None:
    taken = received(n=2, first_choice=4).take(delta(0, 5, choice=1))
    assert taken is not None
    assert taken.choice == 5


def test_eight_more_tokens_are_acknowledged_once() -> None:
    one = received(n=2)
    one.take(delta(0, *range(ACK_TOKENS - 1), choice=1))
    assert one.acks() == []
    one.take(delta(ACK_TOKENS - 1, 5, 6, choice=1))
    assert one.acks() == [Ack(request_id="r", choice=1, next_index=ACK_TOKENS + 1)]
    assert one.acks() == []


def test_a_token_between_two_lost_workers_resets_the_count_of_losses() -> None:
    one = received()
    one.worker_lost(blameless=False)
    assert one.submit().losses == 1
    one.worker_lost(blameless=True)
    assert one.submit().losses == 1
    one.take(delta(0, 1, attempt=3))
    one.worker_lost(blameless=False)
    assert one.submit().losses == 1


def test_deltas_under_way_to_a_paused_request_are_dropped() -> None:
    one = received()
    one.pause()
    assert one.take(delta(0, 1)) is None
    assert one.submit().attempt == 3


def test_each_submit_has_the_caller_and_the_group_of_its_request() -> None:
    asked = Received("r", "tiny", received()._task, caller="key", group="list")
    assert [(each.caller, each.group) for each in (asked.submit(), asked.submit())] == [("key", "list")] * 2


def test_an_answer_is_never_continued_with_other_weights() -> None:
    one = received()
    one.take(delta(0, 1), "these")
    assert one.submit().digest == "these"
    with pytest.raises(ModelChanged):
        one.take(delta(1, 2, attempt=2), "others")
    one.take(delta(1, 2, attempt=2), "these")
    assert one.submit().held == [[1, 2]]
