"""The life of one worker process, as a table.

Rule 1: a worker changes its state by ``advance`` only.
Rule 2: the table says which changes are legal; others decide which of them happen.
Rule 3: a worker that drains or stops never serves again.
"""

from enum import Enum


class State(Enum):
    SPAWNED = "spawned"  # started, no message has come yet
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"  # finishes what it runs, takes nothing new
    STOPPING = "stopping"  # its requests are answered for; its process has still to end
    GONE = "gone"


STARTING = frozenset({State.SPAWNED, State.LOADING})
SERVING = frozenset({State.READY, State.DRAINING})


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
    """The table has no such step, which is a bug."""


def advance(state: State, signal: Signal) -> State:
    try:
        return TRANSITIONS[state][signal]
    except KeyError:
        raise LifecycleError(f"{signal.name} while {state.name}") from None
