"""The requests a worker has accepted: which deltas go to which api, under which attempt."""

from hypothesis import given
from hypothesis import strategies as st

from shared.protocol import Delta, Finish, FinishReason, RunHeader
from tests.jobs import run, sent
from workers.accepted import AcceptedRequests, DeltaBatch
from workers.job import Output


def header(request_id: str, attempt: int = 1, held: int = 0, api: str = "api-1") -> RunHeader:
    asked = run(request_id, attempt=attempt, held=[[0] * held] if held else None)
    return sent(asked.model_copy(update={"api": api}))[0]


def output(request_id: str, index: int, *, attempt: int = 1, end: bool = False) -> Output:
    finish = Finish(reason=FinishReason.STOP, completion_tokens=index + 1) if end else None
    delta = Delta(request_id=request_id, attempt=attempt, choice=0, index=index, ids=[7], finish=finish)
    return Output("unused", delta)


def accepted(*headers: RunHeader) -> AcceptedRequests:
    requests = AcceptedRequests()
    for each in headers:
        requests.add(each)
    return requests


def shown(batches: list[DeltaBatch]) -> list[tuple[str, list[tuple[str, int, int]], dict[str, int]]]:
    return [(b.api, [(d.request_id, d.attempt, d.index) for d in b.deltas], b.ended) for b in batches]


def test_the_outputs_of_a_step_are_one_batch_per_api_that_names_the_requests_it_ends() -> None:
    requests = accepted(header("a"), header("b"), header("c", api="api-2"))
    step = [output("a", 0), output("b", 0, end=True), output("c", 0)]
    assert shown(requests.batches(step, now=5.0)) == [
        ("api-1", [("a", 1, 0), ("b", 1, 0)], {"b": 1}),
        ("api-2", [("c", 1, 0)], {}),
    ]
    assert requests.active == 2 and requests.attempts == {"a": 1, "b": 1, "c": 1}


def test_outputs_of_a_request_that_is_unknown_replaced_or_ended_are_dropped() -> None:
    requests = accepted(header("a", attempt=2), header("b"))
    requests.batches([output("b", 0, end=True)], now=0.0)
    late = [output("gone", 0), output("a", 0, attempt=1), output("b", 1)]
    assert requests.batches(late, now=0.0) == []


def test_a_resumed_request_is_sent_the_deltas_its_api_lacks_and_continues_under_the_new_attempt() -> None:
    requests = accepted(header("a"))
    requests.batches([output("a", 0), output("a", 1)], now=0.0)
    again = requests.resume(header("a", attempt=2, held=1, api="api-2"))
    assert again is not None and shown([again]) == [("api-2", [("a", 2, 1)], {})]
    assert shown(requests.batches([output("a", 2, end=True)], now=0.0)) == [
        ("api-2", [("a", 2, 2)], {"a": 2})
    ]


def test_a_request_that_is_unknown_or_does_not_join_the_apis_tokens_is_not_resumed() -> None:
    requests = accepted(header("a"))
    assert requests.resume(header("b")) is None
    assert requests.resume(header("a", attempt=2, held=9)) is None


def test_an_ended_request_is_retained_until_it_is_unclaimed_for_so_long() -> None:
    requests = accepted(header("a"), header("b"))
    requests.batches([output("a", 0, end=True)], now=10.0)
    requests.drop_unclaimed(before=10.0)
    assert "a" in requests
    requests.drop_unclaimed(before=10.1)
    assert "a" not in requests and "b" in requests


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=12))
def test_a_batch_sent_delta_by_delta_ends_each_request_once_with_its_last_delta(
    rows: list[tuple[str, bool]],
) -> None:
    deltas = [output(id, index).delta for index, (id, _) in enumerate(rows)]
    ended = {id: 1 for id, ends in rows if ends}
    singles = DeltaBatch("api-1", deltas, ended).singles()
    assert [single.deltas for single in singles] == [[delta] for delta in deltas]
    ends = [id for single in singles for id in single.ended]
    assert sorted(ends) == sorted(ended)
    for id in ended:
        last = max(index for index, (other, _) in enumerate(rows) if other == id)
        assert id in singles[last].ended
