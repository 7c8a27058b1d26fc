"""The unacked log of a request, and how a new attempt resumes from it."""

from typing import Any

from shared.protocol import Delta, Finish, FinishReason, RunHeader
from tests.jobs import run, sent
from workers.unacked import MAX_TOKENS, UnackedRequest


def delta(index: int, *, choice: int = 0, ids: int = 1, end: bool = False) -> Delta:
    finish = Finish(reason=FinishReason.STOP, completion_tokens=index + ids) if end else None
    tokens = list(range(index, index + ids))
    return Delta(request_id="a", attempt=1, choice=choice, index=index, ids=tokens, finish=finish)


def header(**options: Any) -> RunHeader:
    return sent(run(**options))[0]


def record(*deltas: Delta, n: int = 1) -> UnackedRequest:
    record = UnackedRequest(header(n=n))
    for one in deltas:
        record.append(one)
    return record


def held(*lengths: int) -> list[list[int]]:
    return [[0] * length for length in lengths]


def indices(deltas: list[Delta] | None) -> list[tuple[int, int]] | None:
    return None if deltas is None else [(one.choice, one.index) for one in deltas]


def test_deltas_that_the_api_lacks_are_sent_again_under_its_attempt() -> None:
    kept = record(delta(0), delta(1), delta(2))
    again = kept.resume(header(attempt=2, held=held(1)))
    assert indices(again) == [(0, 1), (0, 2)]
    assert again is not None and {one.attempt for one in again} == {2}
    assert kept.append(delta(3)).attempt == 2
    assert kept.running == 1


def test_an_api_that_holds_all_tokens_is_sent_nothing_again() -> None:
    assert record(delta(0), delta(1)).resume(header(attempt=2, held=held(2))) == []


def test_a_finish_without_a_token_is_sent_again() -> None:
    assert indices(record(delta(0), delta(1, ids=0, end=True)).resume(header(attempt=2, held=held(1)))) == [
        (0, 1)
    ]


def test_each_choice_resumes_at_its_own_index() -> None:
    kept = record(delta(0), delta(0, choice=1), delta(1), delta(1, choice=1, end=True), n=2)
    assert indices(kept.resume(header(attempt=2, n=2, held=held(2, 1)))) == [(1, 1)]
    assert not kept.ended


def test_acknowledged_deltas_are_dropped_from_the_unacked_log() -> None:
    kept = record(delta(0), delta(1), delta(2))
    kept.acknowledge(0, 2)
    assert kept.resume(header(attempt=2, held=held(1))) is None
    assert indices(kept.resume(header(attempt=2, held=held(2)))) == [(0, 2)]


def test_a_delta_of_several_tokens_is_not_cut() -> None:
    assert record(delta(0), delta(1, ids=3)).resume(header(attempt=2, held=held(2))) is None


def test_an_api_that_holds_more_tokens_than_the_log_gets_its_request_run_again() -> None:
    assert record(delta(0)).resume(header(attempt=2, held=held(5))) is None


def test_a_resumed_request_begins_behind_what_was_held() -> None:
    kept = UnackedRequest(header(attempt=2, held=held(4)))
    kept.append(delta(4))
    assert kept.resume(header(attempt=3, held=held(3))) is None
    assert indices(kept.resume(header(attempt=3, held=held(4)))) == [(0, 4)]


def test_the_unacked_log_retains_a_bounded_number_of_tokens() -> None:
    kept = record(*(delta(index) for index in range(MAX_TOKENS + 10)))
    assert kept.resume(header(attempt=2, held=held(9))) is None
    assert kept.resume(header(attempt=2, held=held(10))) is not None
