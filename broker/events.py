"""Everything that passes between the core and the server: events, which happened, and actions, to be carried out."""

from dataclasses import dataclass, field

from broker.rules import Changes
from shared.protocol import (
    ApiToBroker,
    BrokerToApi,
    BrokerToWorker,
    DownloadReport,
    Inspection,
    WorkerToBroker,
)

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class ApiSaid:
    """``body``: of a Submit, unopened."""

    api: str
    message: ApiToBroker
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class WorkerSaid:
    """The server holds the body of a Forward until the core has said what to do with it."""

    worker: str
    message: WorkerToBroker


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """A worker process ended: ``code`` is its exit code, or minus the signal that ended it.

    None: not known, because it was the child of an earlier broker.
    """

    worker: str
    code: int | None
    last_lines: tuple[str, ...] = ()  # of its log, unless it left in good order


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    worker: str
    reason: str


@dataclass(frozen=True, slots=True)
class PeerGone:
    """The peer is not connected or reads too slowly: messages to it are lost."""

    peer: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed, and every message that came before has been handled."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The broker ends; its workers stay for the next one."""


@dataclass(frozen=True, slots=True)
class StopAll:
    """The workers end first, then the broker. A second StopAll does not wait for them."""


@dataclass(frozen=True, slots=True)
class SettingsRead:
    """``outcome``: what has changed, or what is wrong with the settings. ``api``: the one that asked, if any did."""

    outcome: Changes | tuple[str, ...]
    api: str = ""
    query: str = ""


@dataclass(frozen=True, slots=True)
class Inspected:
    """None: nothing was found out."""

    model: str
    found: Inspection | None


@dataclass(frozen=True, slots=True)
class DownloadSaid:
    model: str
    report: DownloadReport


@dataclass(frozen=True, slots=True)
class DownloadEnded:
    """The process has ended; ``how`` is the rest of a sentence that begins with it."""

    model: str
    how: str


@dataclass(frozen=True, slots=True)
class SpareSaid:
    """It has imported everything. ``footprint``: bytes."""

    spare: str
    footprint: int


@dataclass(frozen=True, slots=True)
class SpareEnded:
    """Before it became a worker; ``how`` is the rest of a sentence that begins with it."""

    spare: str
    how: str


@dataclass(frozen=True, slots=True)
class MemoryRead:
    """``available``: bytes that the machine, or the container, could still give to programs."""

    available: int


Event = (
    ApiSaid
    | WorkerSaid
    | WorkerExited
    | SpawnFailed
    | PeerGone
    | Tick
    | Leave
    | StopAll
    | SettingsRead
    | Inspected
    | DownloadSaid
    | DownloadEnded
    | SpareSaid
    | SpareEnded
    | MemoryRead
)

# ---------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class TellApi:
    api: str
    message: BrokerToApi


@dataclass(frozen=True, slots=True)
class TellWorker:
    """``body``: of the Submit, after a RunHeader."""

    worker: str
    message: BrokerToWorker
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class PassOn:
    """Send the body of the Forward, unopened."""

    api: str


@dataclass(frozen=True, slots=True)
class Spawn:
    """``spare``: the process that becomes this worker, if one does. ``python``: its own interpreter, if it has one."""

    worker: str
    model: str
    spare: str = ""
    python: str = ""


@dataclass(frozen=True, slots=True)
class StartSpare:
    """SpareSaid follows, or SpareEnded."""

    spare: str


@dataclass(frozen=True, slots=True)
class EndSpare:
    """SpareEnded follows."""

    spare: str


@dataclass(frozen=True, slots=True)
class Terminate:
    worker: str


@dataclass(frozen=True, slots=True)
class Kill:
    worker: str
    reason: str = field(default="", compare=False)  # for the log


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop what is parked for this api."""

    api: str
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Abort:
    """Ends the worker with SIGABRT, which writes its stacks to its log."""

    worker: str
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the operator's log."""

    line: str


@dataclass(frozen=True, slots=True)
class Inspect:
    """Inspected follows. ``python``: the model's own interpreter, if it has one."""

    model: str
    python: str = ""


@dataclass(frozen=True, slots=True)
class Download:
    """DownloadSaid follows, as often as there is news, and DownloadEnded."""

    model: str


@dataclass(frozen=True, slots=True)
class StopDownload:
    model: str


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """SettingsRead follows."""

    api: str
    query: str


@dataclass(frozen=True, slots=True)
class Exit:
    pass


Action = (
    TellApi
    | TellWorker
    | PassOn
    | Spawn
    | StartSpare
    | EndSpare
    | Terminate
    | Kill
    | Abort
    | Forget
    | Note
    | Inspect
    | Download
    | StopDownload
    | ReadSettings
    | Exit
)
