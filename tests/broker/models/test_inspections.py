"""Models are inspected before they are started: one at a time, and what is found decides what happens."""

from typing import Any

from broker.core import Broker
from broker.events import Action, Inspect, Inspected, SettingsRead, Spawn, Tick
from broker.memory.decisions import GB
from broker.memory.needs import OVERHEAD, Needs
from broker.rules import Changes, MemoryRules
from broker.system.learned_file import EVERY, LearnedFile
from shared.protocol import Inspection
from tests.broker.plays import ManualClock, ask, make_broker, play, reason, refusals, status


def broker_with(**rules: Any) -> Broker:
    return make_broker(rules=MemoryRules(**{"budget": 8 * GB, "lends": True, "inspects": True, **rules}))


def spawned(actions: list[Action]) -> list[str]:
    return [action.model for action in actions if isinstance(action, Spawn)]


def test_all_models_are_inspected_one_after_the_other_and_once() -> None:
    broker = broker_with()
    assert play(broker, Tick()) == [Inspect("a")]
    assert play(broker, Tick()) == []
    assert play(broker, Inspected("a", Inspection(weights=GB))) == [Inspect("b")]
    assert play(broker, Inspected("b", Inspection(weights=GB)), Tick()) == []


def test_a_model_that_was_changed_or_was_gone_is_inspected_again_even_if_its_inspection_runs() -> None:
    broker = broker_with()
    rules = MemoryRules(budget=8 * GB, lends=True, inspects=True)
    play(broker, Tick())
    play(broker, SettingsRead(Changes(("a", "b"), rules, again=("a",))))
    assert play(broker, Inspected("a", Inspection(weights=GB))) == [Inspect("a")]
    assert play(broker, Inspected("a", Inspection(weights=GB))) == [Inspect("b")]
    play(broker, Inspected("b", Inspection(weights=GB)), SettingsRead(Changes(("b",), rules)))
    assert play(broker, SettingsRead(Changes(("a", "b"), rules))) == [Inspect("a")]


def test_a_model_that_is_asked_for_is_inspected_first_and_started_only_then() -> None:
    broker = broker_with()
    assert play(broker, ask("r1", "b")) == [Inspect("b")]
    assert Spawn("b#1", "b") in play(broker, Inspected("b", Inspection(weights=GB)))


def test_two_large_models_are_not_loaded_together_for_the_first_time() -> None:
    broker = broker_with()
    play(broker, ask("r1", "a"), ask("r2", "b"))
    actions = play(broker, Inspected("a", Inspection(weights=5 * GB)))
    assert spawned(actions) == ["a"]
    assert spawned(play(broker, Inspected("b", Inspection(weights=5 * GB)))) == []
    assert status(broker).models[1].state == "queued"


def test_a_model_that_can_never_fit_is_refused_before_anything_is_started() -> None:
    broker = broker_with()
    play(broker, ask("r1"))
    actions = play(broker, Inspected("a", Inspection(weights=20 * GB)))
    assert spawned(actions) == []
    assert refusals(actions) == [("r1", "model_unavailable")]
    assert "it needs 20.5" in reason(actions)


def test_a_model_that_can_never_be_loaded_says_why_in_its_status_and_to_those_who_wait() -> None:
    broker = broker_with()
    play(broker, ask("r1"))
    actions = play(broker, Inspected("a", Inspection(reason="config.json is missing", permanent=True)))
    assert refusals(actions) == [("r1", "model_unavailable")]
    model = status(broker).models[0]
    assert (model.state, model.reason) == ("failed", "config.json is missing")


def test_a_model_whose_inspection_failed_or_found_nothing_is_started_all_the_same() -> None:
    for found in (None, Inspection()):
        broker = broker_with()
        play(broker, ask("r1"))
        assert spawned(play(broker, Inspected("a", found))) == ["a"]


def test_what_was_learned_is_known_to_the_next_broker() -> None:
    needs = Needs(8 * GB, {}, frozenset())
    needs.note_load("a", "digest", GB, 1000)
    needs.note_load_seconds("a", 4.04)
    needs.note_base("a", 3 * GB)
    after = Needs(8 * GB, {}, frozenset())
    after.restore(needs.saved())
    known = after.of("a", 0.0)
    assert (known.base, known.least_kv, known.load_seconds) == (3 * GB, 1000, 4.0)


def test_other_weights_under_the_same_name_are_measured_anew() -> None:
    needs = Needs(8 * GB, {}, frozenset())
    needs.restore({"a": {"digest": "old", "base": 5 * GB, "context_bytes": 0, "loads": [1.0]}})
    needs.note_load("a", "new", GB, 0)
    assert needs.of("a", 0.0).base == GB + OVERHEAD


def test_a_model_that_once_took_more_than_the_budget_can_still_be_loaded_alone() -> None:
    needs = Needs(8 * GB, {}, frozenset())
    needs.note_load("a", "digest", 3 * GB, 2 * GB)
    needs.note_base("a", 20 * GB)
    assert needs.of("a", 0.0).total == 8 * GB


def test_a_learned_size_is_forgotten_a_little_with_each_load() -> None:
    needs = Needs(8 * GB, {}, frozenset())
    needs.note_load("a", "digest", GB, 0)
    needs.note_base("a", 4 * GB)
    for _ in range(5):
        needs.note_load("a", "digest", GB, 0)
    assert 3 * GB < needs.of("a", 0.0).base < 3.2 * GB


def test_the_file_is_written_when_something_changed_and_not_more_often_than_every_ten_seconds(
    tmp_path: Any,
) -> None:
    clock = ManualClock()
    file = LearnedFile(tmp_path / "learned.json", clock)
    entry = {"digest": "d", "base": 1, "context_bytes": 2, "loads": [3.0]}
    file.write({"a": entry})
    file.write({"a": entry, "b": entry})
    assert list(file.read()) == ["a"]
    clock.advance(EVERY)
    file.write({"a": entry, "b": entry})
    assert file.read() == {"a": entry, "b": entry}


def test_a_damaged_file_is_no_reason_not_to_start(tmp_path: Any) -> None:
    path = tmp_path / "learned.json"
    endless = '{"a": {"digest": "d", "base": Infinity, "context_bytes": 0, "loads": []}}'
    for text in ("", "[]", '{"a": 1}', '{"a": {"digest": "d"}}', "{", endless):
        path.write_text(text)
        assert LearnedFile(path).read() == {}
