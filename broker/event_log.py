"""What the operator's log says of events and actions; most of them are not worth a line.

Ids, names and reasons only: a prompt or a token never gets here.
"""

from broker.events import (
    Abort,
    Action,
    Event,
    Forget,
    Kill,
    PeerGone,
    Spawn,
    SpawnFailed,
    StopAll,
    TellApi,
    TellWorker,
    Terminate,
    WorkerExited,
    WorkerSaid,
)
from shared.protocol import Bye, Drain, Goodbye, LoadFailed, Register, Resubmit


def heard(event: Event) -> str | None:
    match event:
        case WorkerSaid(worker, Register() as said):
            return f"{worker} is ready: {said.model!r}, pid {said.pid}, holds {len(said.held)} requests"
        case WorkerSaid(worker, LoadFailed(reason=reason, permanent=permanent)):
            return f"{worker} cannot load: {reason!r}{' (for good)' if permanent else ''}"
        case WorkerSaid(worker, Bye(reason=reason)):
            return f"{worker} leaves: {reason!r}"
        case WorkerExited(worker, code):
            return f"{worker} ended: {code}"
        case SpawnFailed(worker, reason):
            return f"{worker} could not be started: {reason}"
        case PeerGone(peer):
            return f"{peer} cannot be reached"
        case StopAll():
            return "stopping all workers"
    return None


def done(action: Action) -> str | None:
    match action:
        case Spawn(worker, model):
            return f"starting {worker} for {model!r}"
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
        case TellApi(api, Resubmit() as said):
            return f"{said.request_id!r} of {api} is to come again: {said.reason!r}"
    return None
