"""Every message that crosses a socket, and, imported from here, every part that a message has.

Rule 1: nothing travels between processes unless it is defined here or in the eight modules whose names this one
re-exports: `parts`, `generation`, `encoding`, `hosting`, `deltas`, `reports`, `key_terms`, `operations`.
Rule 2: this module knows no sockets, no models and no HTTP.
Rule 3: each Submit is answered by deltas that end every choice, or by exactly one Refused.
Rule 4: ids fence. ``epoch`` names one life of the broker, a peer's name one life of an api or worker process,
``attempt`` one dispatch of a request (the api counts it up with each Submit), ``index`` a token of a choice.
Whoever receives a message of another epoch or attempt drops it.
Rule 5: the broker reads headers. What a request says and what answers it are frames behind them that it passes on.
"""

from typing import Annotated, Literal

from pydantic import Field

from shared.deltas import Alternative, CallPiece, Delta, Failure, Finish, FinishReason, Start, TokenLogprob
from shared.encoding import Embedding, Ranking, Scores, Vectors
from shared.generation import (
    MODELS_OWN,
    ChatPrompt,
    Generation,
    Grammar,
    Prompt,
    Sampling,
    Stopping,
    TextPrompt,
    TokenPrompt,
    ToolUse,
)
from shared.hosting import Hosted, Place
from shared.key_terms import KeyTerms, Spent
from shared.operations import (
    Assignment,
    Change,
    ChangesReport,
    DownloadReport,
    Follow,
    ForgetPrompts,
    Inspection,
    Operation,
    OperationReply,
    Order,
    OrderReply,
    PromptsForgotten,
    Reload,
    Reloaded,
    SpareReady,
    Status,
)
from shared.parts import AsJson, Ids, Part
from shared.reports import (
    Capabilities,
    CrashReport,
    KeyUsage,
    MemoryDecision,
    MemoryStatus,
    ModelCounts,
    ModelStatus,
    RecentRequest,
    RequestShape,
    StatusReport,
    WorkerStatus,
)

__all__ = [
    "MODELS_OWN",
    "Ack",
    "Alternative",
    "ApiToBroker",
    "AsJson",
    "Assignment",
    "BrokerToApi",
    "BrokerToWorker",
    "Bye",
    "CallPiece",
    "Cancel",
    "Capabilities",
    "Change",
    "ChangesReport",
    "ChatPrompt",
    "Chunks",
    "CrashReport",
    "Delta",
    "Done",
    "DownloadReport",
    "Drain",
    "Embedding",
    "EncodingBody",
    "Failed",
    "Failure",
    "Figures",
    "Finish",
    "FinishReason",
    "Follow",
    "ForgetPrompts",
    "Forward",
    "Generation",
    "Goodbye",
    "Grammar",
    "Heartbeat",
    "Hosted",
    "Ids",
    "Inspection",
    "KeyTerms",
    "KeyUsage",
    "Lease",
    "LoadFailed",
    "Loading",
    "MemoryDecision",
    "MemoryStatus",
    "MemoryUse",
    "ModelCounts",
    "ModelStatus",
    "Operation",
    "OperationReply",
    "Order",
    "OrderReply",
    "Part",
    "Ping",
    "Place",
    "Pong",
    "Prompt",
    "PromptsForgotten",
    "Ranking",
    "RecentRequest",
    "Refused",
    "Register",
    "Reload",
    "Reloaded",
    "RequestShape",
    "Resubmit",
    "Run",
    "RunHeader",
    "Sampling",
    "Scores",
    "SpareReady",
    "Spent",
    "Start",
    "Status",
    "StatusReport",
    "Stopping",
    "Submit",
    "SubmitBody",
    "SubmitHeader",
    "Task",
    "TextPrompt",
    "TokenLogprob",
    "TokenPrompt",
    "ToolUse",
    "Vectors",
    "Waiting",
    "WorkerStatus",
    "WorkerToBroker",
]

Task = Generation | Embedding | Ranking | Hosted
"""What a request asks for; a model's kind says which of them it can do."""

# ---------------------------------------------------------------- api -> broker


class Ping(Part):
    """The first message of an api process, repeated while it lives; the broker answers with Pong."""

    type: Literal["ping"] = "ping"


class Figures(Part):
    """What an api process has counted since it started: sums by the names and labels of its metrics."""

    type: Literal["figures"] = "figures"
    sums: dict[str, float]


class Submit(Part):
    """Run this request. First try, resume and re-attachment are this one message, of two frames: header and body.

    ``held``: per choice, the token ids that the api has; generation goes on after them. ``losses``: workers that were
    lost over the request since it last gained a token.

    ``caller`` is the digest of the request's API key, or empty. ``group`` names the HTTP request that it came with, as
    the prompts of one list do; where the server asks for no key, the user or conversation that the client names.
    Queues and batches take turns between callers, and between the groups of a caller; see ``shared.callers``.
    (``Generation.cache_namespace`` is something else: an operator may let all callers share it.)

    ``digest`` is that of the weights that gave the held tokens; on other weights the request cannot go on. Empty: not
    known, or no token is held. ``key``: None where the server asks for no key.
    """

    type: Literal["submit"] = "submit"
    request_id: str
    attempt: int
    model: str
    task: Task
    held: list[Ids] = []
    losses: int = 0
    caller: str = ""
    group: str = ""
    digest: str = ""
    key: KeyTerms | None = None

    @property
    def generation(self) -> Generation:
        """The task, where nothing but a Generation comes."""
        assert isinstance(self.task, Generation)
        return self.task


class SubmitHeader(Part):
    """What the broker reads of a Submit: everything but its text.

    ``prompt`` is the kind of the prompt, or of what an encoder is asked for; ``size`` its length in tokens or, of a
    text, in characters; ``lengths`` the number of held tokens of each choice. ``fingerprint`` is a digest of the
    request without caller and seed. ``path``: where its prompt may begin like others, see ``shared.prefix_path``.
    """

    type: Literal["submit"] = "submit"
    request_id: str
    attempt: int
    model: str
    losses: int = 0
    caller: str = ""
    group: str = ""
    digest: str = ""
    key: KeyTerms | None = None
    prompt: str = ""
    size: int = 0
    max_tokens: int | None = None
    n: int = 1
    lengths: list[int] = []
    fingerprint: bytes = b""
    path: bytes = b""


class SubmitBody(Part):
    """The second frame of a Submit, which only the worker opens."""

    generation: Generation
    held: list[Ids] = []

    @property
    def task(self) -> Task:
        return self.generation


class EncodingBody(Part):
    """A SubmitBody of what is no generation: nothing of its answer is ever held."""

    encoding: Annotated[Embedding | Ranking | Hosted, Field(discriminator="kind")]
    held: list[Ids] = []

    @property
    def task(self) -> Task:
        return self.encoding


class Ack(Part):
    """The api has every token of the choice below ``next_index``. ``spent``: of a request with a key."""

    type: Literal["ack"] = "ack"
    request_id: str
    choice: int
    next_index: int
    spent: Spent | None = None


class Done(Part):
    """The api has all of it, so many ``tokens``: the worker that retains the request may forget it.

    Of a hosted model: the api is done with the Place, and this ends the request.
    """

    type: Literal["done"] = "done"
    request_id: str
    spent: Spent | None = None
    tokens: int = 0


class Cancel(Part):
    type: Literal["cancel"] = "cancel"
    request_id: str
    spent: Spent | None = None


# ---------------------------------------------------------------- broker -> api


class Pong(Part):
    """``epoch`` is new in each life of the broker: a peer that sees it change tells the broker what it holds.

    ``busy``: for workers, how many of them have something to do and share the cores.
    """

    type: Literal["pong"] = "pong"
    epoch: str
    busy: int = 1


class Chunks(Part):
    """What one engine step gave to the requests of one api process. ``digest``: of the weights."""

    type: Literal["chunks"] = "chunks"
    deltas: list[Delta]
    digest: str = ""


class Waiting(Part):
    """Requests of one model that wait in its queue. ``positions``: by request id, of ``total``; the first is 1.

    ``state``: as in a ModelStatus; ``phase``, ``percent``: of its load; of a download ``phase`` has rate and rest.
    """

    type: Literal["waiting"] = "waiting"
    model: str
    state: str
    phase: str = ""
    percent: int = 0
    total: int
    positions: dict[str, int]


class Resubmit(Part):
    """The worker that ran this attempt is lost: submit again with what you hold.

    ``blameless``: the worker left in good order, so no request of it can be at fault.
    """

    type: Literal["resubmit"] = "resubmit"
    request_id: str
    attempt: int
    reason: str
    blameless: bool = False


class Refused(Part):
    """The end of a request that did not finish."""

    type: Literal["refused"] = "refused"
    request_id: str
    attempt: int
    failure: Failure


# ---------------------------------------------------------------- broker -> worker


class Run(Part):
    """A Submit on its way to a worker, as two frames: a RunHeader and the Submit's body.

    ``api`` is the name of the api process that gets the deltas. A worker that has the request, running or ended, goes
    on with it under the new attempt and sends again what the api does not hold; if it cannot, it runs it anew.
    """

    type: Literal["run"] = "run"
    api: str
    submit: Submit


class RunHeader(Part):
    type: Literal["run"] = "run"
    api: str
    submit: SubmitHeader


class Lease(Part):
    """So many bytes may keys and values take from now on. ``serial`` is larger in each lease of a worker."""

    type: Literal["lease"] = "lease"
    size: int
    serial: int


class Drain(Part):
    """Finish what is running, accept nothing new, exit 0."""

    type: Literal["drain"] = "drain"


class Goodbye(Part):
    """The broker does not accept this worker: leave."""

    type: Literal["goodbye"] = "goodbye"
    reason: str


# ---------------------------------------------------------------- worker -> broker


class Loading(Part):
    """The first message of a worker, repeated while it loads. ``token`` proves that it may serve here."""

    type: Literal["loading"] = "loading"
    token: str
    model: str
    pid: int
    phase: str = "starting"
    done: int = 0
    total: int = 0


class Register(Part):
    """The model is loaded. ``held``: the requests that this worker runs or retains, for a new broker.

    ``epoch``: of the broker that it was sent to; empty from a worker that has heard no broker and holds nothing. A
    Register for an earlier broker may reach the next one late, which then asks again.
    """

    type: Literal["register"] = "register"
    epoch: str = ""
    token: str
    model: str
    pid: int
    digest: str
    context_length: int
    context_bytes: int = 0  # keys and values of one sequence so long
    lease: int = 0  # that it keeps to; 0: it never had one
    capabilities: Capabilities | None = None
    held: dict[str, int] = {}  # request id -> attempt


class MemoryUse(Part):
    """Bytes, of one moment. ``footprint``: of the whole process, as the system counts it.

    ``serial`` is of the lease that the worker keeps to; ``obeyed`` what its keys and values may take, which is more
    than the lease while running answers hold more. ``kv``: what of the footprint is for keys and values. ``committed``:
    what running answers may come to hold; ``kept``: of prompts that are kept.
    """

    footprint: int = 0
    serial: int = 0
    obeyed: int = 0
    kv: int = 0
    committed: int = 0
    kept: int = 0


class Heartbeat(Part):
    """Sent by the link thread, with the engine's step counter as proof of progress.

    ``active``: requests that have not ended; ``preparing`` of them wait for the tokenizer and not for a step.
    """

    type: Literal["heartbeat"] = "heartbeat"
    epoch: str
    step: int
    active: int
    preparing: int = 0
    memory: MemoryUse = MemoryUse()
    engine: dict[str, float | int | str] = {}


class Forward(Part):
    """The header of a two-frame message; the second frame is a Chunks for ``api`` that the broker does not open."""

    type: Literal["forward"] = "forward"
    api: str
    ended: dict[str, int] = {}  # request id -> the attempt that ends with this message


class Failed(Part):
    """This request cannot run or go on here; the worker itself goes on."""

    type: Literal["failed"] = "failed"
    request_id: str
    attempt: int
    failure: Failure


class LoadFailed(Part):
    """The worker exits after this. ``permanent``: it will fail again until the files or settings change.

    ``absent``: the model is of the hub and has to be fetched first.
    """

    type: Literal["load_failed"] = "load_failed"
    reason: str
    permanent: bool
    absent: bool = False


class Bye(Part):
    type: Literal["bye"] = "bye"
    reason: str


ApiToBroker = Annotated[
    Ping | Figures | SubmitHeader | Ack | Done | Cancel | Operation, Field(discriminator="type")
]
BrokerToApi = Annotated[
    Pong | Chunks | Resubmit | Refused | Waiting | OperationReply | StatusReport, Field(discriminator="type")
]
BrokerToWorker = Annotated[
    RunHeader | Ack | Done | Cancel | Lease | ForgetPrompts | Drain | Pong | Goodbye,
    Field(discriminator="type"),
]
WorkerToBroker = Annotated[
    Loading | Register | Heartbeat | Forward | Failed | PromptsForgotten | LoadFailed | Bye,
    Field(discriminator="type"),
]
