"""The lines of the operator's log for events and actions; most of them have none.

Ids, names, reasons and the paths of logs: prompts and tokens never get here. An event tells only what the broker itself
knows: what a peer claims is logged as a Note, once the core has accepted it.
"""

from collections.abc import Callable

from broker.events import (
    Abort,
    Action,
    Event,
    Forget,
    Kill,
    Note,
    PeerGone,
    Spawn,
    SpawnFailed,
    StopAll,
    TellApi,
    TellWorker,
    Terminate,
    WorkerExited,
)
from shared.protocol import Drain, Goodbye, Resubmit


def of_event(event: Event, log_of: Callable[[str], str]) -> str | None:
    """``log_of``: the path of a worker's own log."""
    match event:
        case WorkerExited(worker, 0):
            return f"{worker} ended: 0"
        case WorkerExited(worker, code):
            return f"{worker} ended: {code}; its log: {log_of(worker)}"
        case SpawnFailed(worker, reason):
            return f"{worker} could not be started: {reason}"
        case PeerGone(peer):
            return f"{peer} cannot be reached"
        case StopAll():
            return "stopping all workers"
    return None


def of_action(action: Action) -> str | None:
    match action:
        case Note(line):
            return line
        case Spawn(worker, model, spare="", python=""):
            return f"starting {worker} for {model!r}"
        case Spawn(worker, model, python=python) if python:
            return f"starting {worker} for {model!r} with {python}"
        case Spawn(worker, model, spare):
            return f"{spare} becomes {worker} for {model!r}"
        case Terminate(worker):
            return f"asking {worker} to end"
        case TellWorker(worker, Drain()):
            return f"asking {worker} to end when it has finished what it runs"
        case Abort(worker, reason):
            return f"aborting {worker}: {reason}"
        case Kill(worker, reason):
            return f"killing {worker}: {reason}"
        case Forget(api, reason):
            return f"{api} {reason}: its requests are cancelled"
        case TellWorker(worker, Goodbye(reason=reason)):
            return f"sending {worker} away: {reason}"
        case TellApi(api, Resubmit() as message):
            return f"{message.request_id!r} of {api} is to come again: {message.reason!r}"
    return None
