"""The life of one worker process, as a table.

Rule 1: a worker changes state here or not at all.
Rule 2: this module decides nothing; it only says what is legal.
Rule 3: one way only: who drains or stops never serves again.
"""

from enum import Enum


class State(Enum):
    SPAWNED = "spawned"  # started, not heard of yet
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"  # finishes what it has, takes nothing new
    STOPPING = "stopping"  # answered for already; its process has still to end
    GONE = "gone"


class Signal(Enum):
    LOADING = "loading"
    READY = "ready"
    DRAIN = "drain"
    STOP = "stop"
    EXIT = "exit"


TRANSITIONS: dict[State, dict[Signal, State]] = {
    State.SPAWNED: {
        Signal.LOADING: State.LOADING,
        Signal.READY: State.READY,
        Signal.STOP: State.STOPPING,
        Signal.EXIT: State.GONE,
    },
    State.LOADING: {
        Signal.READY: State.READY,
        Signal.STOP: State.STOPPING,
        Signal.EXIT: State.GONE,
    },
    State.READY: {
        Signal.DRAIN: State.DRAINING,
        Signal.STOP: State.STOPPING,
        Signal.EXIT: State.GONE,
    },
    State.DRAINING: {
        Signal.STOP: State.STOPPING,
        Signal.EXIT: State.GONE,
    },
    State.STOPPING: {Signal.EXIT: State.GONE},
    State.GONE: {},
}


class LifecycleError(Exception):
    """A bug of ours: the table has no such step."""


def advance(state: State, signal: Signal) -> State:
    try:
        return TRANSITIONS[state][signal]
    except KeyError:
        raise LifecycleError(f"{signal.name} while {state.name}") from None
