"""Downloads as plays of the broker's events: begun, shared, waited for, ended, cancelled, and what is told."""

import random
from pathlib import Path
from typing import Any

import pytest

from broker.core import Broker
from broker.events import (
    Action,
    ApiSaid,
    Download,
    DownloadEnded,
    DownloadSaid,
    Inspect,
    Inspected,
    SettingsRead,
    Spawn,
    StopAll,
    StopDownload,
    Tick,
    WorkerExited,
    WorkerSaid,
)
from broker.memory.decisions import GB
from broker.models.downloads import AT_ONCE, Downloads
from broker.requests.scheduler import Limits
from broker.rules import Changes, MemoryRules
from broker.system.pulls_file import PullsFile
from shared.protocol import (
    Change,
    ChangesReport,
    DownloadReport,
    Follow,
    Inspection,
    LoadFailed,
    Order,
    OrderReply,
    Ping,
    Waiting,
)
from tests.broker.plays import (
    API,
    ask,
    forward,
    loading,
    make_broker,
    notes,
    play,
    ready,
    reason,
    refusals,
    run,
    said,
    status,
)

ABSENT = Inspection(absent=True)
WHOLE = DownloadReport(whole=True)
OFFLINE = DownloadReport(reason="the hub cannot be reached (HF_HUB_OFFLINE is set)")


def broker_with(limits: Limits | None = None) -> Broker:
    """``a`` is not on this disk, ``b`` is."""
    rules = MemoryRules(budget=8 * GB, lends=True, inspects=True)
    broker = make_broker(rules=rules, limits=limits)
    play(broker, Tick(), Inspected("a", ABSENT), Inspected("b", Inspection(weights=GB)))
    return broker


def progress(done: int, total: int = 1000, model: str = "a") -> DownloadSaid:
    return DownloadSaid(model, DownloadReport(phase="download", done=done, total=total))


def ended(last: DownloadReport | None, model: str = "a") -> list[Any]:
    """The child's last word, and its end."""
    word = [DownloadSaid(model, last)] if last else []
    return [*word, DownloadEnded(model, "exited with code 75")]


def order(action: Any, model: str = "a", *, wait: bool = True) -> ApiSaid:
    return ApiSaid(API, Order(query="q", action=action, model=model, wait=wait))


def reply(actions: list[Action]) -> OrderReply | None:
    return next((message for message in said(actions) if isinstance(message, OrderReply)), None)


def state(broker: Broker, model: str = "a") -> str:
    return next(one.state for one in status(broker).models if one.id == model)


def test_a_request_for_a_model_that_is_not_here_has_it_fetched_inspected_and_loaded() -> None:
    broker = broker_with()
    assert (state(broker), status(broker).models[0].absent) == ("loadable", True)
    assert play(broker, ask("r1")) == [Download("a")]
    assert play(broker, ask("r2")) == [], "two asks are one download"
    assert state(broker) == "downloading"
    assert play(broker, *ended(WHOLE)) == [Inspect("a")]
    actions = play(broker, Inspected("a", Inspection(weights=GB)))
    assert Spawn("a#1", "a") in actions
    assert status(broker).models[0].absent is False
    play(broker, loading("a#1"))
    assert run("a#1", "r1") in play(broker, ready("a#1"))


def test_a_model_that_is_here_is_not_fetched_when_it_is_asked_for() -> None:
    assert Spawn("b#1", "b") in play(broker_with(), ask("r1", "b"))


def test_progress_is_shown_in_the_status_with_its_rate_and_what_is_left() -> None:
    broker = broker_with()
    play(broker, ask("r1"))
    play(broker, progress(0), now=0.0)
    play(broker, progress(100), now=1.0)
    play(broker, progress(400), now=4.0)
    model = status(broker, 4.0).models[0]
    assert (model.state, model.phase, model.done, model.total) == ("downloading", "download", 400, 1000)
    assert (model.rate, model.eta) == (100.0, 6.0)


def test_who_waits_is_told_how_far_the_download_is() -> None:
    broker = broker_with()
    play(broker, ask("r1"))
    play(broker, progress(0), now=0.0)
    play(broker, progress(2_000_000, 5_000_000), now=1.0)
    told = [one for one in said(broker.handle(Tick(), 2.0)) if isinstance(one, Waiting)]
    assert [(one.state, one.percent, one.phase) for one in told] == [
        ("downloading", 40, "2.0 MB/s, 2 s left")
    ]


def test_each_percent_of_a_download_is_an_event_and_so_is_its_end() -> None:
    broker = broker_with()
    play(broker, ask("r1"), progress(10), progress(11), progress(500), *ended(WHOLE))
    [report] = [
        one
        for one in said(broker.handle(ApiSaid(API, Follow(query="q", epoch="e1", since=0)), 0.0))
        if isinstance(one, ChangesReport)
    ]
    changes: list[Change] = report.changes or []
    assert [(one.state, one.detail) for one in changes if one.kind == "download"] == [
        ("downloading", ""),
        ("downloading", "1 % of 0 MB"),
        ("downloading", "50 % of 0 MB"),
        ("gone", ""),
    ]
    assert "downloading" in [one.state for one in changes if one.kind == "model" and one.name == "a"]


def test_each_ten_percent_of_a_download_are_a_line_of_the_log() -> None:
    broker = broker_with()
    play(broker, ask("r1"))
    lines = [
        notes(broker.handle(progress(done * 10**6, 10**9), done / 100)) for done in (0, 90, 110, 190, 500)
    ]
    assert lines == [
        [],
        [],
        ["fetching 'a': 11 % of 1.0 GB, 100.0 MB/s, 9 s left"],
        [],
        ["fetching 'a': 50 % of 1.0 GB, 100.0 MB/s, 5 s left"],
    ]


def test_requests_are_not_too_old_while_their_model_is_fetched_nor_right_after() -> None:
    broker = broker_with(Limits(queue_age=2))
    play(broker, ask("r1"))
    assert refusals(play(broker, Tick(), now=7.0)) == []
    play(broker, *ended(WHOLE), now=7.0)
    assert refusals(play(broker, Tick(), now=8.0)) == []
    assert refusals(play(broker, ApiSaid(API, Ping()), Tick(), now=16.5)) == []
    assert refusals(play(broker, Tick(), now=17.5)) == [("r1", "queue_full")]


def test_requests_are_not_too_old_while_other_downloads_have_their_turn() -> None:
    models = [f"m{number}" for number in range(AT_ONCE + 1)]
    rules = MemoryRules(budget=8 * GB, lends=True, inspects=True)
    broker = make_broker(models, Limits(queue_age=2), rules=rules)
    play(broker, Tick(), *(Inspected(model, ABSENT) for model in models))
    play(broker, *(ask(f"r-{model}", model) for model in models))
    assert refusals(play(broker, Tick(), now=4.0)) == []


def test_a_whole_download_makes_up_for_the_failures_before_it() -> None:
    broker = broker_with()
    play(broker, ask("r1"), *ended(OFFLINE))
    play(broker, ask("r2"), *ended(WHOLE), now=1.0)
    assert state(broker) == "queued"


def test_downloads_are_counted_by_model_with_the_bytes_that_came() -> None:
    broker = broker_with()
    play(broker, ask("r1"), progress(0), progress(400), *ended(OFFLINE))
    play(broker, ask("r2"), progress(400), progress(1000), *ended(WHOLE), now=1.0)
    counts = {model.id: model.counts for model in status(broker).models}
    told = [(of.downloads, of.failed_downloads, of.downloaded_bytes) for of in (counts["a"], counts["b"])]
    assert told == [(1, 1, 1000), (0, 0, 0)]


def test_a_broker_that_fetches_looks_often_how_far_it_is() -> None:
    broker = broker_with()
    assert broker.idle
    play(broker, order("pull", wait=False))
    assert not broker.idle


def test_a_download_that_fails_refuses_who_waits_with_its_reason_and_the_next_request_tries_again() -> None:
    broker = broker_with()
    play(broker, ask("r1"))
    actions = play(broker, *ended(OFFLINE))
    assert refusals(actions) == [("r1", "model_unavailable")]
    assert "the hub cannot be reached" in reason(actions)
    assert state(broker) == "failed"
    assert play(broker, ask("r2"), now=1.0) == [Download("a")]


def test_a_download_that_fails_for_good_is_not_tried_again_at_once() -> None:
    broker = broker_with()
    play(broker, ask("r1"), *ended(DownloadReport(reason="it is private", permanent=True)))
    actions = play(broker, ask("r2"), now=1.0)
    assert "it is private" in reason(actions)
    assert Download("a") not in actions


def test_a_child_that_dies_without_a_word_is_a_failure() -> None:
    broker = broker_with()
    play(broker, ask("r1"))
    assert "its download exited with code 75" in reason(play(broker, *ended(None)))


def test_a_download_goes_on_when_nobody_waits_for_it_any_more() -> None:
    broker = broker_with()
    play(broker, order("load"))
    play(broker, order("unload", wait=False))
    assert play(broker, Tick(), now=9.0) == []
    assert state(broker) == "downloading"


def test_a_worker_that_finds_its_model_absent_has_it_fetched_and_nobody_is_refused() -> None:
    broker = make_broker()
    play(broker, ask("r1"), loading("a#1"))
    absent = LoadFailed(reason="it is not here", permanent=False, absent=True)
    actions = play(broker, WorkerSaid("a#1", absent))
    assert refusals(actions) == []
    assert Download("a") in actions


def test_a_model_that_somebody_elses_worker_finds_absent_is_fetched_without_a_request() -> None:
    broker = make_broker()
    play(broker, loading("static", model="a"))
    absent = LoadFailed(reason="it is not here", permanent=False, absent=True)
    assert Download("a") in play(broker, WorkerSaid("static", absent))


def reloading() -> Broker:
    """``a`` is loaded, and the worker that a reload started finds that its files are not here."""
    broker = make_broker(rules=MemoryRules(budget=32 * GB, lends=True))
    play(broker, ask("r1"), ready("a#1"), forward("a#1", "r1"))
    assert Spawn("a#2", "a") in play(broker, order("reload"))
    absent = LoadFailed(reason="it is not here", permanent=False, absent=True)
    actions = play(broker, WorkerSaid("a#2", absent))
    assert Download("a") in actions
    assert reply(actions) is None, "the reload goes on after the download"
    play(broker, WorkerExited("a#2", 75))
    assert run("a#1", "r2") in play(broker, ask("r2")), "the old worker goes on"
    return broker


def test_a_reload_that_finds_its_model_absent_has_it_fetched_and_goes_on_then() -> None:
    broker = reloading()
    actions = play(broker, *ended(WHOLE))
    assert Spawn("a#3", "a") in actions
    assert reply(actions) is None
    play(broker, ready("a#3"), forward("a#1", "r2"))
    found = reply(play(broker, WorkerExited("a#1", 0)))
    assert found and found.done


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_reload_whose_download_does_not_end_well_says_so_and_the_old_worker_goes_on(
    cancelled: bool,
) -> None:
    broker = reloading()
    if cancelled:
        play(broker, ApiSaid(API, Order(query="c", action="cancel", model="a")))
    found = reply(play(broker, *ended(None if cancelled else OFFLINE)))
    assert found and found.failure
    why = "its download was cancelled" if cancelled else "the hub cannot be reached"
    assert f"the old one goes on: {why}" in found.failure.message
    assert state(broker) == "hot"


def test_a_pull_that_waits_is_answered_when_it_is_whole_and_another_one_shares_it() -> None:
    broker = broker_with()
    actions = play(broker, order("pull"))
    assert (reply(actions), Download("a") in actions) == (None, True)
    later = play(broker, order("pull", wait=False))
    found = reply(later)
    assert found and (found.done, found.state) == (False, "downloading")
    assert Download("a") not in later
    found = reply(play(broker, *ended(WHOLE)))
    assert found and found.done


def test_a_pull_that_fails_says_why() -> None:
    broker = broker_with()
    play(broker, order("pull"))
    found = reply(play(broker, *ended(OFFLINE)))
    assert found and found.failure
    assert "'a' cannot be fetched: the hub cannot be reached" in found.failure.message


def test_a_cancelled_download_ends_its_child_and_refuses_who_waits_and_can_be_gone_on_with() -> None:
    broker = broker_with()
    play(broker, order("pull"), ask("r1"))
    actions = play(broker, order("cancel", wait=False))
    assert StopDownload("a") in actions
    assert StopDownload("a") not in play(broker, order("cancel", wait=False)), "it is told once"
    actions = play(broker, *ended(None))
    assert refusals(actions) == [("r1", "model_unavailable")]
    assert "was cancelled" in reason(actions)
    assert state(broker) == "loadable"
    assert play(broker, ask("r2"), now=1.0) == [Download("a")]


def test_a_cancel_of_what_is_not_fetched_is_done_at_once() -> None:
    found = reply(play(broker_with(), order("cancel")))
    assert found and found.done


def test_a_cancelled_download_whose_turn_has_not_come_does_not_begin() -> None:
    models = [f"m{number}" for number in range(AT_ONCE + 1)]
    broker = make_broker(models, rules=MemoryRules(budget=8 * GB, lends=True, inspects=True))
    play(broker, Tick(), *(Inspected(model, ABSENT) for model in models))
    play(broker, *(ask(f"r-{model}", model) for model in models))
    last = models[-1]
    assert state(broker, last) == "downloading"
    actions = play(broker, order("cancel", last))
    assert refusals(actions) == [(f"r-{last}", "model_unavailable")]
    assert "was cancelled" in reason(actions)
    assert state(broker, last) == "loadable"
    assert Download(last) not in play(broker, *ended(WHOLE, models[0]))


def test_a_cancel_refuses_nobody_who_waits_for_a_model_that_is_here() -> None:
    broker = broker_with()
    play(broker, ask("r1", "b"))
    assert refusals(play(broker, order("cancel", "b"))) == []


def test_a_cancelled_download_is_not_begun_again_when_the_settings_change() -> None:
    broker = broker_with()
    play(broker, order("pull", wait=False), order("cancel", wait=False))
    rules = MemoryRules(budget=8 * GB, lends=True, inspects=True)
    play(broker, SettingsRead(Changes(("a", "b"), rules, again=("a",))))
    assert Download("a") not in play(broker, *ended(None))
    assert broker.pulls == frozenset()


def test_a_pull_after_a_cancel_begins_when_the_first_child_has_ended() -> None:
    broker = broker_with()
    play(broker, order("pull", wait=False), order("cancel", wait=False))
    assert Download("a") not in play(broker, order("pull"))
    assert Download("a") in play(broker, *ended(None))


def test_a_broker_that_stops_ends_its_downloads_and_begins_none() -> None:
    broker = broker_with()
    play(broker, ask("r1"))
    actions = play(broker, StopAll())
    assert StopDownload("a") in actions


def test_what_was_ordered_and_has_not_ended_is_known_to_the_next_broker_which_goes_on_with_it() -> None:
    broker = broker_with()
    play(broker, ask("r1"))
    assert broker.pulls == frozenset(), "who waits asks the next broker himself"
    play(broker, order("pull", wait=False))
    assert broker.pulls == {"a"}
    after = make_broker(pulls=("a", "gone"))
    assert play(after, Tick()) == [Download("a")]
    assert after.pulls == {"a"}
    play(after, *ended(WHOLE))
    assert after.pulls == frozenset()


def test_a_server_that_is_stopped_goes_on_with_its_downloads_when_it_is_started_again() -> None:
    broker = broker_with()
    play(broker, order("pull", wait=False), StopAll(), *ended(None))
    assert broker.pulls == {"a"}


def test_the_next_broker_begins_nothing_that_was_cancelled() -> None:
    broker = broker_with()
    play(broker, order("pull", wait=False), order("cancel", wait=False))
    assert broker.pulls == frozenset()


def test_a_model_that_comes_from_elsewhere_now_is_fetched_anew_and_who_waits_goes_on_waiting() -> None:
    broker = broker_with()
    rules = MemoryRules(budget=8 * GB, lends=True, inspects=True)
    play(broker, ask("r1"))
    actions = play(broker, SettingsRead(Changes(("a", "b"), rules, again=("a",))))
    assert StopDownload("a") in actions
    actions = play(broker, *ended(None))
    assert refusals(actions) == []
    assert Download("a") in actions


def test_the_download_of_a_model_that_is_gone_from_the_settings_ends() -> None:
    broker = broker_with()
    play(broker, order("pull", wait=False))
    rules = MemoryRules(budget=8 * GB, lends=True, inspects=True)
    assert StopDownload("a") in play(broker, SettingsRead(Changes(("b",), rules)))


def test_the_file_of_pulls_is_for_the_next_broker_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "pulls.json"
    assert PullsFile(path).read() == ()
    PullsFile(path).write({"b", "a"})
    assert PullsFile(path).read() == ("a", "b")
    file = PullsFile(path)
    file.read()
    file.write(())
    assert PullsFile(path).read() == ()
    for damaged in ("{", "7", ""):
        path.write_text(damaged)
        assert PullsFile(path).read() == ()


def test_an_unknown_model_cannot_be_pulled() -> None:
    found = reply(play(broker_with(), order("pull", "org/other")))
    assert found and found.failure and found.failure.code == "model_not_found"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_a_model_is_fetched_by_one_child_at_a_time_and_no_order_is_lost(seed: int) -> None:
    rng, downloads, models = random.Random(seed), Downloads(), ("a", "b", "c", "d")
    children: set[str] = set()
    told: set[str] = set()
    owed: set[str] = set()  # ordered after the last cancel, and not ended since it began
    for _ in range(500):
        model = rng.choice(models)
        match rng.choice(["order", "absent", "next", "next", "cancel", "end", "whole"]):
            case "order":
                downloads.order(model)
                owed.add(model)
            case "absent":
                downloads.absent.add(model)
            case "next":
                if begun := downloads.next(rng.sample(models, 2), lambda model: rng.random() < 0.7):
                    assert begun not in children, "two children for a model"
                    children.add(begun)
            case "cancel":
                if downloads.cancel(model):
                    assert model in children - told
                    told.add(model)
                owed.discard(model)
            case "end" | "whole" as how if model in children:
                children.discard(model)
                if how == "whole":
                    downloads.note(model, WHOLE, 0.0)
                if model not in told:
                    owed.discard(model)
                told.discard(model)
                outcome = downloads.end(model, "ended")
                assert outcome
                assert (outcome == "whole") == (how == "whole")
                assert not (how == "whole" and model in downloads.absent)
        assert children == downloads.running.keys()
        assert len(children) <= AT_ONCE
        assert all(downloads.is_under_way(model) for model in owed)
