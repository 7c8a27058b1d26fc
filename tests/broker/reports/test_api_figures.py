"""Sums of the api processes, and what the broker counts of loads, losses and queues."""

from hypothesis import given
from hypothesis import strategies as st

from broker.events import ApiSaid, PeerGone, WorkerExited
from broker.reports.api_figures import ApiFigures
from shared.protocol import Figures, Status, StatusReport
from tests.broker.plays import API, ask, forward, load_failed, make_broker, play, ready, said, status

STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["count", "tell", "lose"])), max_size=60)


@given(STEPS)
def test_the_total_is_what_each_process_has_told_last_however_often_it_is_lost_and_comes_back(
    steps: list[tuple[str, str]],
) -> None:
    figures = ApiFigures()
    counted, told = dict.fromkeys("abc", 0.0), dict.fromkeys("abc", 0.0)
    for api, step in steps:
        if step == "count":
            counted[api] += 1
        elif step == "tell":
            told[api] = counted[api]
            figures.hear(api, {"n": counted[api]})
        else:
            figures.forget(api)
        assert figures.total().get("n", 0.0) == sum(told.values())


def test_processes_that_ended_stay_counted_without_being_kept_one_by_one() -> None:
    figures = ApiFigures()
    for number in range(500):
        figures.hear(f"api-{number}", {"n": 1.0})
        figures.forget(f"api-{number}")
    assert figures.total() == {"n": 500.0}
    assert len(figures._departed) < 100


def test_only_a_status_that_asks_for_them_brings_the_figures_of_all_apis() -> None:
    broker = make_broker()
    play(broker, ApiSaid("api-1", Figures(sums={"n": 1.0})), ApiSaid("api-2", Figures(sums={"n": 2.0})))
    play(broker, PeerGone("api-1"))
    [report] = said(play(broker, ApiSaid(API, Status(query="q", figures=True))))
    assert isinstance(report, StatusReport)
    assert report.figures == {"n": 3.0}
    assert status(broker).figures == {}


def test_loads_losses_and_failures_are_counted_by_model() -> None:
    broker = make_broker()
    play(broker, ask("r1"), ready("a#1"), forward("a#1", "r1"), WorkerExited("a#1", -9))
    play(broker, ask("r2"), ready("a#2"), ask("r3", model="b"), load_failed("b#3", permanent=True))
    counts = {model.id: model.counts for model in status(broker).models}
    assert (counts["a"].loads, counts["a"].losses, counts["a"].failed_loads) == (2, 1, 0)
    assert (counts["b"].loads, counts["b"].failed_loads) == (0, 1)


def test_a_request_is_measured_in_the_queue_once_its_load_included() -> None:
    broker = make_broker()
    play(broker, ask("r1"), now=1.0)
    play(broker, ready("a#1"), now=4.0)
    play(broker, WorkerExited("a#1", -9), now=5.0)
    play(broker, ask("r1", attempt=2), ready("a#2"), now=9.0)
    [counts] = [model.counts for model in status(broker, 9.0).models if model.id == "a"]
    assert (sum(counts.queue_times), counts.queue_seconds) == (1, 3.0)
