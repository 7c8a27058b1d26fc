"""Every message that crosses a socket.

Rule 1: nothing travels between processes unless it is defined here.
Rule 2: this module knows no sockets, no models and no HTTP.
Rule 3: each Submit is answered by deltas that end every choice, or by exactly one Refused.
Rule 4: ids fence. ``epoch`` names one life of the broker, a peer's name one life of an api or worker process,
``attempt`` one dispatch of a request (the api counts it up with each Submit), ``index`` a token of a choice.
Whoever receives a message of another epoch or attempt drops it.
Rule 5: what a client may say freely (schemas, messages, arguments) travels as JSON text, which has values that
msgpack has not, and token ids as bytes: so few objects are made of a frame, however long it is.
Rule 6: the broker reads headers. What a request says and what answers it are frames behind them that it passes on.
"""

import json
import sys
from array import array
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer


class Part(BaseModel):
    """A piece of a message. Unknown fields are ignored, so that a newer peer can talk to an older one."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


# ---------------------------------------------------------------- how some values travel

T = TypeVar("T")


def _to_json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _from_json(value: Any) -> Any:
    """A peer that sends the value itself is understood too."""
    return json.loads(value) if isinstance(value, str) else value


def _to_bytes(ids: list[int]) -> bytes | list[int]:
    """What no token id can be travels as it is, for who has to refuse it."""
    try:
        packed = array("I", ids)
    except (OverflowError, TypeError):
        return ids
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _from_bytes(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    ids = array("I")
    ids.frombytes(value)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


AsJson = Annotated[T, BeforeValidator(_from_json), PlainSerializer(_to_json)]  # of what is no str
Ids = Annotated[list[int], BeforeValidator(_from_bytes), PlainSerializer(_to_bytes)]  # four bytes each

# ---------------------------------------------------------------- what is asked


class ChatPrompt(Part):
    """Messages for the model's chat template, already in one dialect: roles system, user, assistant, tool.

    ``param``, here and elsewhere: what the client calls it, for who has to refuse it.
    """

    kind: Literal["chat"] = "chat"
    param: str = "messages"
    messages: AsJson[list[dict[str, Any]]]
    tools: AsJson[list[dict[str, Any]] | None] = None
    template_kwargs: AsJson[dict[str, Any]] = {}


class TextPrompt(Part):
    """``suffix``: what is to follow; the model fills in the middle."""

    kind: Literal["text"] = "text"
    param: str = "prompt"
    text: str
    suffix: str | None = None


class TokenPrompt(Part):
    kind: Literal["tokens"] = "tokens"
    param: str = "prompt"
    ids: Ids
    suffix: str | None = None


Prompt = Annotated[ChatPrompt | TextPrompt | TokenPrompt, Field(discriminator="kind")]


MODELS_OWN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""What a model may have defaults of its own for."""


class Sampling(Part):
    """How each next token is chosen. Random numbers are a function of (seed, choice, index) and nothing else.

    ``unsaid``: those of MODELS_OWN that the request left open; the worker puts the model's own in their place.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    unsaid: list[str] = []


class Stopping(Part):
    """When a choice ends. ``max_tokens`` 0: the prompt is read, nothing follows.

    ``max_tokens`` None, or more than is left of the context: what is left of it.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    stop: list[str] = []
    stop_token_ids: list[int] = []
    ignore_eos: bool = False


class Grammar(Part):
    """What the text must be, enforced token by token: JSON, unless ``regex`` or ``grammar`` say otherwise.

    ``json_schema`` None: any JSON object. ``whitespace``: a regular expression of what may stand between its parts.
    ``grammar`` is in Lark's form, as llguidance reads it, or in llama.cpp's GBNF.
    """

    json_schema: AsJson[dict[str, Any] | None] = None
    whitespace: str | None = None
    regex: str | None = None
    grammar: str | None = None
    param: str = "response_format"


class ToolUse(Part):
    """Which of the prompt's tools may be called. ``mode`` required: a call of one of ``names`` must come."""

    mode: Literal["auto", "required"] = "auto"
    names: list[str]
    parallel: bool = True


class Generation(Part):
    """One prompt and how to continue it; what every dialect of the api is translated into."""

    prompt: Prompt
    sampling: Sampling
    stopping: Stopping = Stopping()
    n: int = 1
    logprobs: int | None = None  # None: not asked; k: the chosen token's and the k best
    echo: bool = (
        False  # the prompt's text (and its log-probabilities, when asked) come in the first delta's start
    )
    grammar: Grammar | None = None
    tool_use: ToolUse | None = None  # None: what looks like a call is text
    split_reasoning: bool = False  # thinking goes to the deltas' ``reasoning``
    cache_namespace: str = ""  # prompts of unlike namespaces never share a cached beginning


# ---------------------------------------------------------------- what is answered


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class Alternative(Part):
    id: int
    bytes: bytes
    logprob: float


class TokenLogprob(Alternative):
    """The chosen token, with the k most likely ones, best first. ``part``: of what, if not of the content."""

    top: list[Alternative] = []
    part: Literal["thinking", "call"] | None = None


class Start(Part):
    """What is known once the prompt is tokenized; in the first delta of each choice.

    ``temperature`` and ``top_p`` are those in use, the model's own where the request left them open.
    """

    prompt_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    cached_tokens: int = 0
    prompt_text: str | None = None  # when echo was asked
    prompt_ids: Ids | None = None  # when echo was asked
    prompt_logprobs: list[TokenLogprob] | None = (
        None  # of the ids behind the first, when echo and logprobs were asked
    )


class CallPiece(Part):
    """A part of a tool call: ``id`` and ``name`` in its first piece only; ``arguments`` is JSON text to append."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Finish(Part):
    reason: FinishReason
    completion_tokens: int
    reasoning_tokens: int = 0  # of them
    stop_sequence: str | None = None  # the stop string that ended it, if one did


class Delta(Part):
    """What one choice gained in one step.

    ``index`` is the index of the first of ``ids`` in the completion. ``text`` may lag behind the ids (incomplete
    UTF-8, a possible stop string) and never runs ahead of them.
    """

    request_id: str
    attempt: int
    choice: int = 0
    index: int
    ids: list[int] = []
    text: str = ""
    reasoning: str = ""
    calls: list[CallPiece] = []
    logprobs: list[TokenLogprob] | None = None
    start: Start | None = None
    finish: Finish | None = None


class Failure(Part):
    """A refusal or an error as the client will see it; ``shared.errors.ServingError`` on the wire."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after: int | None = None
    prompt_tokens: int | None = None  # of a prompt that is too long for
    context_length: int | None = None  # this


# ---------------------------------------------------------------- api -> broker


class Ping(Part):
    """The first message of an api process, repeated while it lives; the broker answers with Pong."""

    type: Literal["ping"] = "ping"


class Submit(Part):
    """Run this request. First try, resume and re-attachment are this one message.

    It travels as two frames, a SubmitHeader and a SubmitBody. ``held`` has, per choice, the token ids the api already
    has; generation goes on behind them.

    ``caller`` is who asks, as far as a request says: the digest of an API key, or empty. ``group`` names the HTTP
    request it came with, so that the prompts of one list are known as one. Who shares something out between requests
    takes turns between callers, and between the groups of one caller; of those without a key each group is a caller.
    (``Generation.cache_namespace`` is something else: an operator may let all callers share it.)

    ``digest`` is that of the weights that gave what is held; on others the request cannot go on. Empty: not known, or
    nothing is held.
    """

    type: Literal["submit"] = "submit"
    request_id: str
    attempt: int
    model: str
    generation: Generation
    held: list[Ids] = []
    losses: int = 0  # workers that were lost over it since it last gained a token
    caller: str = ""
    group: str = ""
    digest: str = ""


class SubmitHeader(Part):
    """What the broker reads of a Submit: everything but its words.

    ``size`` is the prompt's in tokens or, when it is text, in characters; ``lengths`` how many tokens of each choice
    are held. Two requests that say the same have one ``fingerprint``, whoever sends them and with whatever seed.
    """

    type: Literal["submit"] = "submit"
    request_id: str
    attempt: int
    model: str
    losses: int = 0
    caller: str = ""
    group: str = ""
    digest: str = ""
    prompt: str = ""  # its kind
    size: int = 0
    max_tokens: int | None = None
    n: int = 1
    lengths: list[int] = []
    fingerprint: bytes = b""


class SubmitBody(Part):
    """Opened by the worker that runs it."""

    generation: Generation
    held: list[Ids] = []


class Ack(Part):
    """The api has every token of the choice below ``next_index``."""

    type: Literal["ack"] = "ack"
    request_id: str
    choice: int
    next_index: int


class Done(Part):
    """The api has all of it: whoever keeps it may forget it."""

    type: Literal["done"] = "done"
    request_id: str


class Cancel(Part):
    type: Literal["cancel"] = "cancel"
    request_id: str


class Status(Part):
    """Asks for a StatusReport with the same ``query``."""

    type: Literal["status"] = "status"
    query: str


# ---------------------------------------------------------------- broker -> api


class Pong(Part):
    """``epoch`` is new in each life of the broker: whoever sees it change tells the broker what it holds.

    ``busy``: for workers, how many of them have something to do, and so share the cores.
    """

    type: Literal["pong"] = "pong"
    epoch: str
    busy: int = 1


class Chunks(Part):
    """All that one engine step gave to the requests of one api process. ``digest``: of the weights it came from."""

    type: Literal["chunks"] = "chunks"
    deltas: list[Delta]
    digest: str = ""


class Resubmit(Part):
    """The worker that ran this attempt is lost: submit again with what you hold.

    ``blameless``: it left or was ended from outside, which is no fault of what it ran.
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


class Capabilities(Part):
    """What a loaded model can do.

    ``bytes`` is the size of its weights, ``sampling`` how tokens are chosen where a request does not say.
    """

    tools: bool = False
    reasoning: bool = False
    json_schema: bool = False
    infill: bool = False
    bytes: int = 0
    sampling: dict[str, float] = {}


class WorkerStatus(Part):
    id: str
    model: str
    pid: int
    state: str
    since: float  # seconds in this state
    in_flight: int
    spawned: bool  # by this broker; else started by someone else, who also stops it
    phase: str = ""
    done: int = 0  # bytes, while loading
    total: int = 0
    context_length: int | None = None
    engine: dict[str, float | int | str] = {}


class ModelStatus(Part):
    """``state``: hot, loading, loadable or failed; ``reason`` says why it failed."""

    id: str
    state: str
    queued: int = 0
    reason: str | None = None
    context_length: int | None = None
    capabilities: Capabilities | None = None


class RequestShape(Part):
    """A request without its words: ``size`` is the prompt's in tokens or, when it is text, in characters."""

    request_id: str
    attempt: int
    prompt: str
    size: int
    max_tokens: int | None = None
    n: int
    held: list[int]


class Death(Part):
    """A worker that did not end in good order. ``memory``: its last known resident bytes."""

    worker: str
    model: str
    pid: int
    how: str
    exit_code: int | None = None
    signal: str | None = None
    phase: str = ""
    ago: float = 0.0
    memory: int = 0
    last_lines: list[str] = []
    in_flight: list[RequestShape] = []


class StatusReport(Part):
    type: Literal["status_report"] = "status_report"
    query: str
    epoch: str
    pid: int
    uptime: float
    models: list[ModelStatus]
    workers: list[WorkerStatus]
    in_flight: int
    queued: int
    deaths: list[Death] = []  # the last ones, the latest first


# ---------------------------------------------------------------- broker -> worker


class Run(Part):
    """A Submit as the worker prepares it; on its way it is a RunHeader and the Submit's body.

    ``api`` is the name of the api process that gets the deltas.

    A worker that has the request already, running or ended, goes on with it under the new attempt and says again what
    the api does not hold; if it cannot, it runs the request anew.
    """

    type: Literal["run"] = "run"
    api: str
    submit: Submit


class RunHeader(Part):
    type: Literal["run"] = "run"
    api: str
    submit: SubmitHeader


class Drain(Part):
    """Finish what is running, accept nothing new, exit 0."""

    type: Literal["drain"] = "drain"


class Goodbye(Part):
    """The broker does not know this worker, or not any more: leave."""

    type: Literal["goodbye"] = "goodbye"
    reason: str


# ---------------------------------------------------------------- worker -> broker


class Loading(Part):
    """The first word of a worker, repeated as loading goes on. ``token`` proves that it may serve here."""

    type: Literal["loading"] = "loading"
    token: str
    model: str
    pid: int
    phase: str = "starting"
    done: int = 0
    total: int = 0


class Register(Part):
    """The model is loaded. ``held``: the requests this worker runs or keeps, for a broker that does not know.

    ``epoch``: of the broker it was said to; empty from a worker that has heard of none, and so holds nothing. What was
    said to an earlier broker may reach the next one late, and tells nothing then.
    """

    type: Literal["register"] = "register"
    epoch: str = ""
    token: str
    model: str
    pid: int
    digest: str
    context_length: int
    capabilities: Capabilities | None = None
    held: dict[str, int] = {}  # request id -> attempt


class Heartbeat(Part):
    """Life (from the link thread) and progress (the engine's step counter). ``memory``: resident bytes.

    ``active`` requests are here and have not ended; ``preparing`` of them wait for the tokenizer and not for a step.
    """

    type: Literal["heartbeat"] = "heartbeat"
    epoch: str
    step: int
    active: int
    preparing: int = 0
    memory: int = 0
    engine: dict[str, float | int | str] = {}


class Forward(Part):
    """The header of a two-frame message; the second frame is a Chunks for ``api`` that the broker does not open."""

    type: Literal["forward"] = "forward"
    api: str
    ended: dict[str, int] = {}  # request id -> the attempt that ends with this message


class Failed(Part):
    """This request cannot run or go on here; the worker is well."""

    type: Literal["failed"] = "failed"
    request_id: str
    attempt: int
    failure: Failure


class LoadFailed(Part):
    """The worker exits after this. ``permanent``: it will fail again until the files or settings change."""

    type: Literal["load_failed"] = "load_failed"
    reason: str
    permanent: bool


class Bye(Part):
    type: Literal["bye"] = "bye"
    reason: str


ApiToBroker = Annotated[Ping | SubmitHeader | Ack | Done | Cancel | Status, Field(discriminator="type")]
BrokerToApi = Annotated[Pong | Chunks | Resubmit | Refused | StatusReport, Field(discriminator="type")]
BrokerToWorker = Annotated[
    RunHeader | Ack | Done | Cancel | Drain | Pong | Goodbye, Field(discriminator="type")
]
WorkerToBroker = Annotated[
    Loading | Register | Heartbeat | Forward | Failed | LoadFailed | Bye, Field(discriminator="type")
]
