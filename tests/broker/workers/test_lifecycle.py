"""The table of a worker's states: which event leads from which state to which."""

import pytest

from broker.workers.lifecycle import TRANSITIONS, LifecycleError, Signal, State, advance


def test_every_state_has_a_row() -> None:
    assert TRANSITIONS.keys() == set(State)


@pytest.mark.parametrize("state", [state for state in State if state is not State.GONE])
def test_every_living_state_can_end(state: State) -> None:
    assert advance(state, Signal.EXIT) is State.GONE


@pytest.mark.parametrize("signal", Signal)
def test_a_worker_that_is_gone_never_comes_back(signal: Signal) -> None:
    with pytest.raises(LifecycleError, match=f"{signal.name} while GONE"):
        advance(State.GONE, signal)


def test_a_workers_life_goes_one_way() -> None:
    order = list(State)
    for state, row in TRANSITIONS.items():
        assert all(order.index(after) > order.index(state) for after in row.values())


def test_only_a_ready_worker_drains() -> None:
    assert [state for state in State if Signal.DRAIN in TRANSITIONS[state]] == [State.READY]
