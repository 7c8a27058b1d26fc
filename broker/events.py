"""Everything that passes between the core and the server: events, which happened, and actions, to be carried out."""

from dataclasses import dataclass, field

from shared.protocol import ApiToBroker, BrokerToApi, BrokerToWorker, WorkerToBroker

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class ApiSaid:
    """``body``: what came behind a Submit's header; nobody here opens it."""

    api: str
    message: ApiToBroker
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class WorkerSaid:
    """With a Forward, the shell holds the body until it has been told what to do with it."""

    worker: str
    message: WorkerToBroker


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """A process of ours ended: ``code`` is its exit code, or minus the signal that ended it.

    None: nobody can know, because it was another broker's child.
    """

    worker: str
    code: int | None
    last_lines: tuple[str, ...] = ()  # of what it printed, unless it left in good order


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeerGone:
    """A message to it had nowhere to go, or it reads too slowly: what it was told since is lost."""

    peer: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed, and everything said before it has been heard."""


@dataclass(frozen=True, slots=True)
class Leave:
    """This broker goes; the workers stay for the next one."""


@dataclass(frozen=True, slots=True)
class StopAll:
    """Workers first, then the broker. A second one does not wait."""


Event = ApiSaid | WorkerSaid | WorkerExited | SpawnFailed | PeerGone | Tick | Leave | StopAll

# ---------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class TellApi:
    api: str
    message: BrokerToApi


@dataclass(frozen=True, slots=True)
class TellWorker:
    """``body``: of the Submit, behind a Run."""

    worker: str
    message: BrokerToWorker
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class PassOn:
    """Send the body that came with the Forward, unopened."""

    api: str


@dataclass(frozen=True, slots=True)
class Spawn:
    worker: str
    model: str


@dataclass(frozen=True, slots=True)
class Terminate:
    worker: str


@dataclass(frozen=True, slots=True)
class Kill:
    worker: str
    reason: str = field(default="", compare=False)  # for the log


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing more is sent to this api until it is heard again."""

    api: str
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Abort:
    """Ends it with SIGABRT, so that its stacks are in its log."""

    worker: str
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the operator's log."""

    line: str


@dataclass(frozen=True, slots=True)
class Exit:
    pass


Action = TellApi | TellWorker | PassOn | Spawn | Terminate | Kill | Abort | Forget | Note | Exit
