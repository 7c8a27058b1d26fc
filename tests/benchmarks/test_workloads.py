"""The table of workloads, and the requests that plans stand for."""

import pytest

from benchmarks.targets import BARE, ENGINE, OURS, THEIRS, sides_of
from benchmarks.workloads import (
    WORKLOADS,
    Ask,
    ClosedLoop,
    Decode,
    LatePrompt,
    Plan,
    SecondTurn,
    Workload,
    brief,
    closed_loop_asks,
    first_turns,
    late_prompt_asks,
    second_turn,
)


def first_words(ask: Ask) -> str:
    return " ".join(ask.messages[0][1].split()[:6])


@pytest.mark.parametrize(
    "asks",
    [
        closed_loop_asks(ClosedLoop(32, 64), "s"),
        first_turns(SecondTurn(4), "s"),
        late_prompt_asks(LatePrompt(), "s")[0] + [late_prompt_asks(LatePrompt(), "s")[1]],
    ],
)
def test_every_request_has_its_own_first_words(asks: list[Ask]) -> None:
    assert len({first_words(ask) for ask in asks}) == len(asks)


def test_all_sides_are_asked_the_same_and_no_round_what_another_was() -> None:
    plan = ClosedLoop(8, 16)
    assert closed_loop_asks(plan, "round 1") == closed_loop_asks(plan, "round 1")
    first, second = closed_loop_asks(plan, "round 1"), closed_loop_asks(plan, "round 2")
    assert not {first_words(ask) for ask in first} & {first_words(ask) for ask in second}


def test_a_shared_prefix_is_the_same_for_all_and_the_questions_are_not() -> None:
    asks = closed_loop_asks(ClosedLoop(8, 8, shared_words=300), "s")
    assert len({ask.messages[0] for ask in asks}) == 1
    assert len(asks[0].messages[0][1].split()) == 300
    assert len({ask.messages[1] for ask in asks}) == 8


def test_seeds_differ_and_are_there_only_when_asked_for() -> None:
    assert len({ask.seed for ask in closed_loop_asks(ClosedLoop(8, 16, seeded=True), "s")}) == 16
    assert {ask.seed for ask in closed_loop_asks(ClosedLoop(8, 16), "s")} == {None}


def test_models_are_asked_in_turns() -> None:
    assert [ask.model for ask in closed_loop_asks(ClosedLoop(2, 4, models=2), "s")] == [0, 1, 0, 1]


def test_a_second_turn_continues_the_first() -> None:
    [first] = first_turns(SecondTurn(1), "s")
    second = second_turn(first, "An answer.")
    assert second.messages[: len(first.messages)] == first.messages
    assert second.messages[len(first.messages)] == ("assistant", "An answer.")


def test_a_request_names_all_that_servers_have_other_defaults_for() -> None:
    [ask] = closed_loop_asks(ClosedLoop(1, 1, temperature=0.5, top_p=0.9, models=1), "s")
    body = ask.body(("a", "b"))
    assert "seed" not in body
    assert body | {"messages": []} == {
        "model": "a",
        "messages": [],
        "max_tokens": 32,
        "temperature": 0.5,
        "top_p": 0.9,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("plan", [ClosedLoop(8, 16, models=2), SecondTurn(), LatePrompt(), Decode()])
def test_a_warm_up_is_the_same_kind_of_work(plan: Plan) -> None:
    assert type(brief(plan)) is type(plan)
    assert brief(plan) != plan


every = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)


def test_names_of_workloads_are_unlike() -> None:
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)


@every
def test_a_side_is_asked_only_what_it_can_play(workload: Workload) -> None:
    sides = set(sides_of(workload.name))
    assert len(sides) >= 2
    if {OURS, THEIRS} & sides:
        assert not isinstance(workload.plan, Decode)
    if {ENGINE, BARE} & sides:
        assert isinstance(workload.plan, Decode | ClosedLoop)


@every
def test_every_client_has_something_to_ask(workload: Workload) -> None:
    if isinstance(workload.plan, ClosedLoop):
        assert workload.plan.requests >= workload.plan.clients


def test_sides_play_in_one_order() -> None:
    assert sides_of("greedy-8") == (OURS, THEIRS, ENGINE)
