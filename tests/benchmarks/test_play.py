"""Plans, played against a server that is not there."""

import asyncio
from collections.abc import Callable

import pytest

from benchmarks.__main__ import play_in_turns
from benchmarks.client import Failed, Played, Reply, play
from benchmarks.targets import OURS, THEIRS
from benchmarks.workloads import WORKLOADS, Ask, ClosedLoop, Decode, LatePrompt, Plan, SecondTurn


class Scripted:
    """Answers at once; the text has the number of the request."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.asked: list[Ask] = []
        self.at_once = self.most_at_once = 0
        self.fail_at = fail_at

    async def __call__(
        self, ask: Ask, *, keep_text: bool = False, on_first: Callable[[], None] | None = None
    ) -> Reply:
        self.asked.append(ask)
        number = len(self.asked)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        if number == self.fail_at:
            raise Failed("status 500")
        if on_first:
            on_first()
        await asyncio.sleep(0)
        self.at_once -= 1
        return Reply(
            sent=float(number), arrivals=[number + 0.5], completion_tokens=2, text=f"answer {number}"
        )


def played(plan: Plan, answer: Scripted) -> Played:
    return asyncio.run(play(plan, "s", answer))


def test_a_closed_loop_keeps_as_many_requests_running_as_it_has_clients() -> None:
    server = Scripted()
    assert played(ClosedLoop(3, 10), server).tokens == 20
    assert (len(server.asked), server.most_at_once) == (10, 3)


def test_the_second_turn_has_the_answer_to_the_first_and_alone_counts() -> None:
    server = Scripted()
    assert len(played(SecondTurn(2), server).replies) == 2
    assert ("assistant", "answer 1") in server.asked[1].messages
    assert ("assistant", "answer 3") in server.asked[3].messages


def test_the_late_prompt_comes_when_all_are_being_answered_and_does_not_count() -> None:
    server = Scripted()
    assert len(played(LatePrompt(4, words=50), server).replies) == 4
    assert [ask.max_tokens for ask in server.asked] == [64] * 4 + [1]


def test_one_failed_request_fails_the_play_and_ends_the_others() -> None:
    with pytest.raises(Failed, match="500"):
        played(ClosedLoop(3, 10), Scripted(fail_at=5))


def test_a_server_cannot_play_without_clients() -> None:
    with pytest.raises(Failed):
        played(Decode(), Scripted())


class ScriptedSide:
    def __init__(self, fail_at: int | None = None) -> None:
        self.alive = False
        self.log: list[str] = []
        self._fail_at = fail_at

    async def start(self) -> None:
        self.alive = True
        self.log.append("start")

    async def play(self, plan: Plan, seed: str) -> Played:
        self.log.append(seed)
        if len(self.log) == self._fail_at:
            raise Failed("it ended")
        return Played(seconds=1.0, tokens=len(self.log))

    def stop(self) -> None:
        self.alive = False
        self.log.append("stop")


def test_sides_take_turns_there_and_back_on_the_same_seeds_and_the_warm_up_does_not_count() -> None:
    ours, theirs = ScriptedSide(), ScriptedSide()
    said: list[str] = []
    found = asyncio.run(play_in_turns(WORKLOADS[0], {OURS: ours, THEIRS: theirs}, 2, "s", said.append))
    assert [line.split(",")[2].split(":")[0].strip() for line in said] == [
        *(THEIRS, OURS),
        *(OURS, THEIRS),
        *(THEIRS, OURS),
    ]
    assert ours.log == theirs.log == ["start", "s greedy-1 0", "s greedy-1 1", "s greedy-1 2"]
    assert len(found[OURS].figures) == 2


def test_a_side_that_fails_is_a_result_and_is_asked_no_more() -> None:
    ours, theirs = ScriptedSide(), ScriptedSide(fail_at=3)
    found = asyncio.run(play_in_turns(WORKLOADS[0], {OURS: ours, THEIRS: theirs}, 3, "s", lambda line: None))
    assert found[THEIRS].failed == "it ended"
    assert theirs.log[-1] == "stop"
    assert len(found[OURS].figures) == 3
