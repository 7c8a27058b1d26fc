"""What the broker reports of its models and workers: a StatusReport and its parts."""

from typing import Literal

from shared.parts import Part


class Capabilities(Part):
    """What a loaded model can do.

    ``tools``: native, as the model learned them, or described in our words; ``content``: what the chat template reads a
    message as. ``bytes`` is the size of its weights, ``sampling`` how tokens are chosen where a request does not say.
    ``dimensions`` are those of its vectors; ``ranking`` is whether documents are ranked by the cosine of their vectors
    with the query's, or by scores that the model was trained to give; ``truncates``: longer texts are cut.
    ``endpoints``: of a hosted model's server.
    """

    kind: Literal["chat", "embedding", "rerank", "hosted"] = "chat"
    dimensions: int | None = None
    ranking: Literal["cosine", "scores"] | None = None
    truncates: bool = False
    tools: Literal["native", "described", "none"] = "none"
    content: Literal["text", "parts"] = "text"
    reasoning: bool = False
    json_schema: bool = False
    infill: bool = False
    speculation: bool = False
    endpoints: list[str] = []
    bytes: int = 0
    sampling: dict[str, float] = {}


class WorkerStatus(Part):
    id: str
    model: str
    pid: int
    state: str
    since: float  # seconds in this state
    in_flight: int
    spawned: bool  # by the broker, which also stops it
    phase: str = ""
    done: int = 0  # bytes, while loading
    total: int = 0
    context_length: int | None = None
    memory: int = 0  # bytes of its process, as the system counts them
    idle: float = 0.0  # seconds since its last request
    engine: dict[str, float | int | str] = {}


class ModelCounts(Part):
    """Since the broker started. ``losses``: workers that did not end in good order; ``downloads``: whole ones.

    ``queue_times``: requests by how long they were in the queue, for each bound of ``shared.buckets.REQUEST`` and
    beyond; empty: none were. ``queue_seconds`` is the sum of these times.
    """

    loads: int = 0
    failed_loads: int = 0
    evictions: int = 0
    losses: int = 0
    downloads: int = 0
    failed_downloads: int = 0
    downloaded_bytes: int = 0
    queue_times: list[int] = []
    queue_seconds: float = 0.0


class ModelStatus(Part):
    """``state``: hot, loading, downloading, queued (for memory), loadable or failed; ``reason`` says why it failed.

    ``phase``, and ``done`` of ``total`` bytes, while it loads or is fetched; then also ``rate`` in bytes a second and
    ``eta``, the seconds that are left at that rate. ``absent``: it has to be fetched from the hub before it can be
    loaded. ``architecture`` and ``weights`` (bytes in memory) are what an inspection found.
    ``ttl``: seconds without a request, 0: for ever. ``workers``: that are ready, of ``replicas`` (``2``, ``1-2``).
    """

    id: str
    state: str
    queued: int = 0
    phase: str = ""
    done: int = 0
    total: int = 0
    rate: float = 0.0
    eta: float | None = None
    absent: bool = False
    architecture: str = ""
    weights: int = 0
    aliases: list[str] = []
    pinned: bool = False
    ttl: float = 0.0
    workers: int = 0
    replicas: str = "1"
    reason: str | None = None
    context_length: int | None = None
    capabilities: Capabilities | None = None
    counts: ModelCounts = ModelCounts()


class RequestShape(Part):
    """A request without its text: ``size`` is the prompt's in tokens or, of a text, in characters."""

    request_id: str
    attempt: int
    prompt: str
    size: int
    max_tokens: int | None = None
    n: int
    held: list[int]


class RecentRequest(Part):
    """A request that was let in, without its text; ``size`` as in a RequestShape.

    ``waited``, ``took``: seconds in the queue, and from then to its end. ``worker``: empty while it waits; ``ended``:
    empty until it has. ``tokens``: of all its choices, once the api has them. ``resumes``: why it went on elsewhere.
    """

    request_id: str
    model: str
    worker: str = ""
    prompt: str
    size: int
    max_tokens: int | None = None
    n: int = 1
    waited: float = 0.0
    took: float | None = None
    ended: str = ""
    tokens: int | None = None
    resumes: list[str] = []


class CrashReport(Part):
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


class MemoryDecision(Part):
    """What was done about memory, and why, in one line. ``age``: seconds since."""

    age: float
    line: str


class MemoryStatus(Part):
    """Bytes. ``used``: what all workers are charged with: what they have or may come to use; and what spares take.

    ``spares``: by name, of processes that wait for a model. ``leases``: by worker, for keys and values.
    ``decisions``: the last ones, the latest first.
    """

    budget: int = 0
    used: int = 0
    spares: dict[str, int] = {}
    leases: dict[str, int] = {}
    decisions: list[MemoryDecision] = []


class KeyUsage(Part):
    """Of one API key since the broker started. ``open``: its HTTP requests that wait or run now.

    ``requests`` were let in, ``refused`` were not, for the key's own limits. ``cached`` is part of ``prompt``.
    ``owed``: tokens by which its budget is overdrawn.
    """

    name: str
    open: int = 0
    requests: int = 0
    refused: int = 0
    prompt: int = 0
    cached: int = 0
    out: int = 0
    owed: int = 0


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
    recent: list[RecentRequest] = []  # the last ones, newest first
    deaths: list[CrashReport] = []  # the last ones, newest first
    memory: MemoryStatus = MemoryStatus()
    keys: list[KeyUsage] = []
    swaps: int = 0  # times that models made room for another one
    figures: dict[str, float] = {}  # of all api processes, for a Status that asks for them
