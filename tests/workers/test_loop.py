"""The engine thread's loop, with the scripted engine."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from shared.protocol import Delta, FinishReason
from tests.jobs import job
from workers.job import Forgotten, Output
from workers.loop import Add, Cancelled, Command, ForgetKept, Loop, ShareCores, StopWhenIdle
from workers.scripted.engine import Script, ScriptedEngine


def run(*commands: Command, script: Script | None = None) -> list[Delta]:
    inbox: SimpleQueue[Command] = SimpleQueue()
    for command in [*commands, StopWhenIdle()]:
        inbox.put(command)
    outputs: list[Output] = []
    Loop(ScriptedEngine(script or Script()), inbox, outputs.extend).run()
    return [output.delta for output in outputs]


def test_two_requests_share_each_step_of_the_engine() -> None:
    deltas = run(Add(job("a", max_tokens=2)), Add(job("b", max_tokens=2)))
    assert [delta.request_id for delta in deltas] == ["a", "b", "a", "b"]


def test_stop_when_idle_lets_running_requests_end() -> None:
    *_, last = run(Add(job("a", max_tokens=5)))
    assert last.finish is not None and last.finish.completion_tokens == 5


def test_an_idle_engine_waits_briefly_for_requests_that_are_being_prepared() -> None:
    inbox: SimpleQueue[Command] = SimpleQueue()
    commands: list[Command] = [Add(job("b", max_tokens=2)), StopWhenIdle()]

    def preparing() -> int:
        if commands:
            inbox.put(commands.pop(0))
        return len(commands) + 1

    inbox.put(Add(job("a", max_tokens=2)))
    outputs: list[Output] = []
    Loop(ScriptedEngine(Script()), inbox, outputs.extend, preparing=preparing).run()
    assert [output.delta.request_id for output in outputs] == ["a", "b", "a", "b"]


def test_the_number_of_workers_that_share_the_cores_reaches_the_engine_thread() -> None:
    inbox: SimpleQueue[Command] = SimpleQueue()
    inbox.put(ShareCores(2))
    inbox.put(StopWhenIdle())
    told: list[int] = []
    loop = Loop(ScriptedEngine(Script()), inbox, lambda outputs: None, told.append)
    loop.run()
    assert told == [2]


def test_an_idle_engine_rests_once_until_its_next_request() -> None:
    inbox: SimpleQueue[Command] = SimpleQueue()
    rests: list[int] = []

    class Resting(ScriptedEngine):
        def rest(self) -> None:
            rests.append(len(rests))
            inbox.put(StopWhenIdle() if len(rests) == 2 else ShareCores(2))

    def told(workers: int) -> None:
        threading.Timer(0.05, inbox.put, [Add(job("a", max_tokens=2))]).start()

    outputs: list[Output] = []
    Loop(Resting(Script()), inbox, outputs.extend, told, rest_after=0.001).run()
    assert rests == [0, 1] and len(outputs) == 2


def test_a_cancelled_request_gives_no_more_deltas() -> None:
    deltas = run(Add(job("a", max_tokens=3)), Add(job("b", max_tokens=3)), Cancelled("a"))
    assert {delta.request_id for delta in deltas} == {"b"}


def test_every_choice_of_a_request_finishes_once() -> None:
    deltas = run(Add(job("a", n=3, max_tokens=4)))
    assert sorted(delta.choice for delta in deltas if delta.finish) == [0, 1, 2]


def test_a_resumed_request_goes_on_as_the_unbroken_one_would_have() -> None:
    whole = run(Add(job("a", max_tokens=8)))
    ids = [delta.ids[0] for delta in whole]
    resumed = run(Add(job("a", max_tokens=8, held=[ids[:3]])))
    assert [delta.ids[0] for delta in resumed] == ids[3:]
    assert [delta.index for delta in resumed] == [3, 4, 5, 6, 7]
    assert "".join(delta.text for delta in resumed) == "".join(delta.text for delta in whole[3:])


def test_a_request_that_had_ended_before_its_finish_was_lost_ends_at_once() -> None:
    ids = [delta.ids[0] for delta in run(Add(job("a", max_tokens=4)), script=Script(tokens=3))]
    [only] = run(Add(job("a", max_tokens=4, held=[ids])), script=Script(tokens=3))
    assert only.ids == [] and only.finish is not None
    assert (only.finish.reason, only.finish.completion_tokens) == (FinishReason.STOP, 3)


def test_what_is_to_be_forgotten_reaches_the_engine_between_two_steps_and_is_confirmed_by_its_query() -> None:
    inbox: SimpleQueue[Command] = SimpleQueue()
    said: list[object] = []

    class Forgetful(ScriptedEngine):
        def forget(self, namespace: str | None, done: Callable[[Forgotten], None]) -> None:
            said.append(namespace)
            done(Forgotten(memory=3))

    for command in (
        Add(job("a", max_tokens=2)),
        ForgetKept("q", "one"),
        ForgetKept("r", None),
        StopWhenIdle(),
    ):
        inbox.put(command)
    forgot = lambda query, gone: said.append((query, gone))  # noqa: E731
    Loop(Forgetful(Script()), inbox, lambda outputs: None, forgot=forgot).run()
    assert said == ["one", ("q", Forgotten(memory=3)), None, ("r", Forgotten(memory=3))]
