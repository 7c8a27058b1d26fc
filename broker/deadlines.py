"""What may take how long in a worker's life. Pure."""

from broker.lifecycle import State
from broker.registry import Worker
from broker.startup import Timeouts


def overdue(worker: Worker, timeouts: Timeouts, now: float) -> str | None:
    """Why its time is up, if it is."""
    match worker.state:
        case State.SPAWNED if worker.returning and now - worker.heard > timeouts.silence:
            return f"did not come back to a new broker for {timeouts.silence:g} s"
        case State.SPAWNED | State.LOADING if now - worker.progress > timeouts.load:
            return f"made no progress in loading for {timeouts.load:g} s"
        case State.READY | State.DRAINING if now - worker.heard > timeouts.silence:
            return f"was silent for {timeouts.silence:g} s"
        case State.DRAINING if now - worker.since > timeouts.drain:
            return f"had not finished after {timeouts.drain:g} s"
        case State.STOPPING if now - worker.since > timeouts.silence:
            return "does not end"
    return None
