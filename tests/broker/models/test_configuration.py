"""What a change of mlx-server.toml means for a running broker: its lines, and what the core does about it."""

from typing import Any

from broker.core import Broker
from broker.events import (
    Action,
    ApiSaid,
    ReadSettings,
    SettingsRead,
    Spawn,
    TellApi,
    TellWorker,
    Tick,
    WorkerExited,
    WorkerSaid,
)
from broker.models.configuration import changes, memory_rules
from broker.rules import Changes
from shared.model_table import ModelTable
from shared.protocol import Capabilities, Drain, Order, Ping, Register, Reload, Reloaded
from shared.settings import Settings
from tests.broker.plays import (
    API,
    BODY,
    TOKEN,
    ask,
    forward,
    header,
    load_failed,
    make_broker,
    notes,
    play,
    ready,
    refusals,
    run,
    said,
)


def settings(**models: dict[str, Any]) -> Settings:
    """Of a program of workers that cannot be asked about models."""
    tables = {name: ModelTable(**{"source": "/none", **table}) for name, table in models.items()}
    return Settings(worker_command=("any",), models=tables)


A_AND_B = settings(a={}, b={})


def read(after: Settings, before: Settings = A_AND_B) -> SettingsRead:
    return SettingsRead(changes(before, after), API, "q")


def reloaded(actions: list[Action]) -> list[Reloaded]:
    return [message for message in said(actions) if isinstance(message, Reloaded)]


def drained(actions: list[Action]) -> list[str]:
    return [a.worker for a in actions if isinstance(a, TellWorker) and isinstance(a.message, Drain)]


def serving(*workers: str) -> Broker:
    """With the rules of ``A_AND_B``; each worker is ready and idle."""
    broker = make_broker(rules=memory_rules(A_AND_B))
    for worker in workers:
        model = worker[0]
        play(broker, ask(f"r-{worker}", model), ready(worker, model), forward(worker, f"r-{worker}"))
    return broker


def test_equal_settings_change_nothing_and_say_so() -> None:
    found = changes(A_AND_B, settings(a={}, b={}))
    assert (found.again, found.lines) == ((), ("nothing has changed",))


def test_each_change_is_one_line_with_the_old_and_the_new_value() -> None:
    found = changes(A_AND_B, settings(a={"context_length": 4096, "aliases": ["gpt-4o"]}, c={}))
    assert found.lines == (
        "model 'c' is new",
        "model 'b' is gone; what it answers now is finished",
        "model 'a': aliases is gpt-4o, was none",
        "model 'a': context_length is 4096, was not said",
        "model 'a' is loaded anew if it is in memory",
    )


def test_only_what_a_worker_reads_makes_its_model_load_anew() -> None:
    of_the_broker = {"aliases": ["x"], "pinned": True, "preload": True, "memory_gb": 2.0, "replicas": "1-2"}
    assert changes(A_AND_B, settings(a=of_the_broker, b={"ttl": 5.0})).again == ()
    assert changes(A_AND_B, settings(a={"source": "/other"}, b={"defaults": {"top_p": 0.5}})).again == (
        "a",
        "b",
    )


def test_a_setting_that_cannot_change_while_streams_run_needs_a_restart() -> None:
    after = Settings(**{**A_AND_B.model_dump(), "models": A_AND_B.models, "port": 9001, "min_stay": 3.0})
    assert changes(A_AND_B, after).lines == (
        "min_stay is 3.0, was 10.0",
        "port is 9001, was 8000, which needs a restart",
    ) or changes(A_AND_B, after).lines == (
        "port is 9001, was 8000, which needs a restart",
        "min_stay is 3.0, was 10.0",
    )


def test_an_api_that_asks_makes_the_settings_be_read_and_every_api_is_told() -> None:
    broker = serving()
    assert play(broker, ApiSaid("api-2", Ping()), ApiSaid(API, Reload(query="q"))) == [ReadSettings(API, "q")]
    actions = play(broker, read(settings(a={})))
    lines = ["model 'b' is gone; what it answers now is finished"]
    assert [(a.api, a.message) for a in actions if isinstance(a, TellApi)] == [
        ("api-2", Reloaded(query="", lines=lines)),
        (API, Reloaded(query="q", lines=lines)),
    ]


def test_settings_that_cannot_be_used_change_nothing_and_are_answered_line_by_line() -> None:
    broker = serving("a#1")
    actions = broker.handle(SettingsRead(("line 3: no such key", "line 9: wrong"), API, "q"), 0.0)
    [answer] = reloaded(actions)
    assert answer.failure and answer.failure.message == "line 3: no such key; line 9: wrong"
    assert len(notes(actions)) == 2
    assert play(broker, ask("r2")) == [run("a#1", "r2")]


def test_a_new_model_can_be_asked_for_at_once() -> None:
    broker = serving()
    assert refusals(play(broker, ask("r1", "c"))) == [("r1", "model_not_found")]
    play(broker, read(settings(a={}, b={}, c={})))
    assert Spawn("c#1", "c") in play(broker, ask("r2", "c"))


def test_a_model_that_is_gone_finishes_its_answers_and_refuses_what_waits() -> None:
    broker = serving("a#1")
    play(broker, ask("r2"), ask("r3"))
    play(broker, ask("r4", "b"))
    actions = play(broker, read(settings(c={})))
    assert drained(actions) == ["a#1"]
    assert refusals(actions) == [("r4", "model_not_found")]
    assert refusals(play(broker, ask("r5"))) == [("r5", "model_not_found")]


def test_a_model_that_is_gone_is_not_loaded_for_an_order_that_waits() -> None:
    broker = serving("a#1")
    play(broker, ask("r1"), ApiSaid(API, Order(query="q", action="load", model="b")))
    play(broker, read(settings(a={})))
    assert play(broker, WorkerExited("b#2", -15)) == []


def test_a_changed_model_is_loaded_anew_without_touching_its_running_answers() -> None:
    broker = serving("a#1")
    play(broker, ask("r2"))
    after = settings(a={"context_length": 4096}, b={})
    actions = play(broker, read(after))
    assert Spawn("a#2", "a") in actions and drained(actions) == []
    assert drained(play(broker, ready("a#2"))) == ["a#1"]
    assert play(broker, ask("r3")) == [run("a#2", "r3")]
    assert refusals(play(broker, forward("a#1", "r2"), WorkerExited("a#1", 0), Tick())) == []


def test_a_changed_model_that_is_not_in_memory_is_left_there() -> None:
    actions = play(serving(), read(settings(a={"context_length": 4096}, b={})))
    assert not [action for action in actions if isinstance(action, Spawn)]


def test_what_a_model_was_found_to_be_is_not_held_against_its_other_source() -> None:
    broker = serving()
    chat = Capabilities(kind="chat")
    word = Register(token=TOKEN, model="a", pid=7, digest="d", context_length=512, capabilities=chat)
    play(broker, ask("r1"), WorkerSaid("a#1", word), forward("a#1", "r1"), WorkerExited("a#1", 0))
    embed = ApiSaid(API, header("r2").model_copy(update={"prompt": "embedding"}), BODY)
    assert refusals(play(broker, embed)) == [("r2", "model_kind")]
    play(broker, read(settings(a={"source": "/encoder"}, b={})))
    assert Spawn("a#2", "a") in play(broker, embed)


def test_a_load_that_failed_by_the_settings_of_before_is_tried_again_at_once() -> None:
    broker = serving()
    play(broker, ask("r1"), load_failed("a#1", permanent=True), WorkerExited("a#1", 1))
    assert refusals(play(broker, ask("r2"))) == [("r2", "model_unavailable")]
    play(broker, read(settings(a={"source": "/there"}, b={})))
    assert Spawn("a#2", "a") in play(broker, ask("r3"))


def test_a_changed_model_of_a_static_worker_is_named() -> None:
    broker = make_broker(rules=memory_rules(A_AND_B))
    play(broker, ready("static", "a"))
    said_in_log = notes(broker.handle(read(settings(a={"context_length": 4096}, b={})), 0.0))
    assert any(line.startswith("static was not started by this server") for line in said_in_log)


def test_changes_are_compared_as_values() -> None:
    assert changes(A_AND_B, A_AND_B) == Changes(("a", "b"), memory_rules(A_AND_B))


def test_a_model_has_as_many_workers_as_its_table_says_or_else_the_setting() -> None:
    tables = {"a": ModelTable(replicas="2-3"), "b": ModelTable()}
    rules = memory_rules(Settings(models=tables, replicas="1-2"))
    assert rules.replicas == {"a": (2, 3), "b": (1, 2)}
