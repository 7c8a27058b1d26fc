"""What a worker keeps of a request, and how it goes on from it."""

from shared.protocol import Delta, Finish, FinishReason
from tests.jobs import run
from workers.unacked import MAX_TOKENS, Record


def delta(index: int, *, choice: int = 0, ids: int = 1, end: bool = False) -> Delta:
    finish = Finish(reason=FinishReason.STOP, completion_tokens=index + ids) if end else None
    tokens = list(range(index, index + ids))
    return Delta(request_id="a", attempt=1, choice=choice, index=index, ids=tokens, finish=finish)


def record(*deltas: Delta, n: int = 1) -> Record:
    record = Record(run(n=n))
    for one in deltas:
        record.keep(one)
    return record


def held(*lengths: int) -> list[list[int]]:
    return [[0] * length for length in lengths]


def indices(deltas: list[Delta] | None) -> list[tuple[int, int]] | None:
    return None if deltas is None else [(one.choice, one.index) for one in deltas]


def test_what_the_api_lacks_is_said_again_under_its_attempt() -> None:
    kept = record(delta(0), delta(1), delta(2))
    again = kept.adopt(run(attempt=2, held=held(1)))
    assert indices(again) == [(0, 1), (0, 2)]
    assert again is not None and {one.attempt for one in again} == {2}
    assert kept.keep(delta(3)).attempt == 2
    assert kept.running == 1


def test_an_api_that_has_all_hears_nothing_twice() -> None:
    assert record(delta(0), delta(1)).adopt(run(attempt=2, held=held(2))) == []


def test_an_end_without_a_token_is_said_again() -> None:
    assert indices(record(delta(0), delta(1, ids=0, end=True)).adopt(run(attempt=2, held=held(1)))) == [
        (0, 1)
    ]


def test_choices_are_cut_each_at_its_place() -> None:
    kept = record(delta(0), delta(0, choice=1), delta(1), delta(1, choice=1, end=True), n=2)
    assert indices(kept.adopt(run(attempt=2, n=2, held=held(2, 1)))) == [(1, 1)]
    assert not kept.ended


def test_what_was_acknowledged_is_forgotten() -> None:
    kept = record(delta(0), delta(1), delta(2))
    kept.acknowledge(0, 2)
    assert kept.adopt(run(attempt=2, held=held(1))) is None
    assert indices(kept.adopt(run(attempt=2, held=held(2)))) == [(0, 2)]


def test_tokens_that_came_together_are_not_cut() -> None:
    assert record(delta(0), delta(1, ids=3)).adopt(run(attempt=2, held=held(2))) is None


def test_an_api_that_is_further_is_not_gone_back_for() -> None:
    assert record(delta(0)).adopt(run(attempt=2, held=held(5))) is None


def test_a_resumed_request_begins_behind_what_was_held() -> None:
    kept = Record(run(attempt=2, held=held(4)))
    kept.keep(delta(4))
    assert kept.adopt(run(attempt=3, held=held(3))) is None
    assert indices(kept.adopt(run(attempt=3, held=held(4)))) == [(0, 4)]


def test_no_more_than_so_many_tokens_are_kept() -> None:
    kept = record(*(delta(index) for index in range(MAX_TOKENS + 10)))
    assert kept.adopt(run(attempt=2, held=held(9))) is None
    assert kept.adopt(run(attempt=2, held=held(10))) is not None
