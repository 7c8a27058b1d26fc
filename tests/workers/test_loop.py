"""The engine thread's loop, with an engine that has no model."""

import threading
from queue import SimpleQueue

from shared.protocol import Delta, FinishReason
from tests.jobs import job
from workers.job import Output
from workers.loop import Add, Cancelled, Command, Finish, Loop, Share
from workers.scripted.engine import Script, ScriptedEngine


def run(*commands: Command, script: Script | None = None) -> list[Delta]:
    inbox: SimpleQueue[Command] = SimpleQueue()
    for command in [*commands, Finish()]:
        inbox.put(command)
    outputs: list[Output] = []
    Loop(ScriptedEngine(script or Script()), inbox, outputs.extend).run()
    return [output.delta for output in outputs]


def test_two_requests_share_each_step() -> None:
    deltas = run(Add(job("a", max_tokens=2)), Add(job("b", max_tokens=2)))
    assert [delta.request_id for delta in deltas] == ["a", "b", "a", "b"]


def test_finish_lets_running_requests_end() -> None:
    *_, last = run(Add(job("a", max_tokens=5)))
    assert last.finish is not None and last.finish.completion_tokens == 5


def test_an_idle_engine_waits_a_moment_for_requests_that_are_on_their_way() -> None:
    inbox: SimpleQueue[Command] = SimpleQueue()
    commands: list[Command] = [Add(job("b", max_tokens=2)), Finish()]

    def coming() -> int:
        if commands:
            inbox.put(commands.pop(0))
        return len(commands) + 1

    inbox.put(Add(job("a", max_tokens=2)))
    outputs: list[Output] = []
    Loop(ScriptedEngine(Script()), inbox, outputs.extend, coming=coming).run()
    assert [output.delta.request_id for output in outputs] == ["a", "b", "a", "b"]


def test_how_many_share_the_cores_is_passed_on() -> None:
    inbox: SimpleQueue[Command] = SimpleQueue()
    inbox.put(Share(2))
    inbox.put(Finish())
    told: list[int] = []
    loop = Loop(ScriptedEngine(Script()), inbox, lambda outputs: None, told.append)
    loop.run()
    assert told == [2]


def test_an_engine_that_nobody_asks_rests_once_until_it_is_asked_again() -> None:
    inbox: SimpleQueue[Command] = SimpleQueue()
    rests: list[int] = []

    class Resting(ScriptedEngine):
        def rest(self) -> None:
            rests.append(len(rests))
            inbox.put(Finish() if len(rests) == 2 else Share(2))

    def told(workers: int) -> None:
        threading.Timer(0.05, inbox.put, [Add(job("a", max_tokens=2))]).start()

    outputs: list[Output] = []
    Loop(Resting(Script()), inbox, outputs.extend, told, rest_after=0.001).run()
    assert rests == [0, 1] and len(outputs) == 2  # and not again when it was told of others


def test_a_cancelled_request_gives_nothing_more() -> None:
    deltas = run(Add(job("a", max_tokens=3)), Add(job("b", max_tokens=3)), Cancelled("a"))
    assert {delta.request_id for delta in deltas} == {"b"}


def test_every_choice_ends_once() -> None:
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
