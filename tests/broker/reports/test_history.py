"""What has changed in models, workers, memory and settings, numbered, as those who follow the broker read it."""

from broker.core import Broker
from broker.events import ApiSaid, Tick, WorkerExited
from broker.memory.decisions import GB
from broker.reports.history import KEPT, History
from broker.rules import MemoryRules
from shared.errors import MAX_MESSAGE
from shared.protocol import Change, ChangesReport, Follow
from shared.wire import TO_API, decode, encode
from tests.broker.plays import API, ask, forward, load_failed, loading, make_broker, play, ready, said


def following() -> Broker:
    return make_broker(rules=MemoryRules(8 * GB, lends=True, said={"a": 5 * GB, "b": 5 * GB}))


def report(broker: Broker, since: int, epoch: str = "e1") -> ChangesReport:
    [answer] = said(play(broker, ApiSaid(API, Follow(query="q", epoch=epoch, since=since))))
    assert isinstance(answer, ChangesReport)
    return answer


def told(broker: Broker, since: int = 0) -> list[tuple[str, str, str]]:
    changes = report(broker, since).changes
    assert changes is not None
    return [
        (change.name, change.state, change.detail) for change in changes if change.kind in ("model", "worker")
    ]


def test_the_life_of_a_model_and_its_worker_is_told_step_by_step() -> None:
    broker = following()
    play(
        broker,
        Tick(),
        ask("r1"),
        loading("a#1"),
        ready("a#1"),
        forward("a#1", "r1"),
        WorkerExited("a#1", 0),
        Tick(),
    )
    assert told(broker) == [
        ("a", "loadable", ""),
        ("b", "loadable", ""),
        ("a", "loading", ""),
        ("a#1", "spawned", "a"),
        ("a", "loading", "load"),
        ("a#1", "loading", "a"),
        ("a", "hot", ""),
        ("a#1", "ready", "a"),
        ("a", "loadable", ""),
        ("a#1", "gone", ""),
    ]


def test_a_failed_load_is_told_with_its_reason() -> None:
    broker = following()
    play(broker, ask("r1"), load_failed("a#1", permanent=True))
    assert ("a", "failed", "no such file") in told(broker)


def test_decisions_about_memory_are_told() -> None:
    broker = following()
    play(broker, ask("r1"))
    lines = [change.detail for change in report(broker, 0).changes or () if change.kind == "memory"]
    assert lines == ["start a with 0 MB for keys and values: it needs 5.0 GB, 8.0 GB are free"]


def test_who_knows_a_change_is_told_those_after_it() -> None:
    broker = following()
    play(broker, Tick())
    latest = report(broker, 0).latest
    assert told(broker, latest) == []
    play(broker, ask("r1"))
    assert next(iter(report(broker, latest).changes or ())).serial == latest + 1


def test_changes_of_another_broker_or_of_the_future_are_not_known() -> None:
    broker = following()
    play(broker, Tick())
    assert report(broker, 0, epoch="e0").changes is None
    assert report(broker, 99).changes is None


def test_only_so_many_changes_are_kept() -> None:
    history = History()
    for number in range(KEPT + 5):
        history.note("memory", str(number))
    assert history.since(4) is None
    kept = history.since(5)
    assert kept is not None
    assert (kept[0], len(kept)) == (Change(serial=6, kind="memory", detail="5"), KEPT)


def test_what_has_not_changed_is_not_told_again() -> None:
    history = History()
    for _ in range(3):
        history.look({"a": ("hot", "")}, {})
    assert history.latest == 1


def test_all_changes_that_are_kept_fit_into_one_message_however_long_their_reasons() -> None:
    history = History()
    for number in range(KEPT):
        history.look({"a": ("failed", f"{number} ".ljust(MAX_MESSAGE, "x"))}, {})
    kept = history.since(0)
    report = ChangesReport(query="q", epoch="e1", latest=history.latest, changes=kept)
    assert decode(TO_API, encode(report)) == report
