"""The answers of /v1/models."""

from typing import Literal

from api.generation.schemas import Response


class ModelCapabilities(Response):
    """Of models that are no chat models: ``dimensions``, ``ranking`` (by the cosine of vectors, or by scores) and
    ``truncates`` (a text that is too long is cut). Of a hosted model, which another server answers: its ``endpoints``
    and what is ``not_promised`` of it that is of all others; what its server does not tell is null.
    """

    kind: Literal["chat", "embedding", "rerank", "hosted"] = "chat"
    tools: Literal["native", "described", "none"] | None
    content: Literal["text", "parts"] | None
    reasoning: bool | None
    json_schema: bool | None
    infill: bool | None
    speculation: bool | None = False
    dimensions: int | None = None
    ranking: Literal["cosine", "scores"] | None = None
    truncates: bool = False
    endpoints: list[str] = []
    not_promised: list[str] = []


class Loading(Response):
    """How far a load is: its phase, and how many of how many bytes; 0 of 0 where nothing is counted."""

    phase: str
    bytes: int
    of: int


class Downloading(Response):
    """How far a download is; 0 of 0 before its size is known. ``rate``: bytes a second; ``eta``: seconds left."""

    bytes: int
    of: int
    rate: float = 0.0
    eta: float | None = None


class ModelInfo(Response):
    """One object for OpenAI's and Anthropic's clients, with this server's own fields.

    ``capabilities``, ``size`` (bytes of the weights) and ``default_sampling`` (generation_config.json) are known after
    the model was loaded once. ``alias_of`` is the model that an alias stands for; ``aliases`` are those of a model,
    with patterns, in which ``*`` is any text. ``queued``: it waits for memory. ``pinned``: it never makes room for
    another model; ``ttl``: it is unloaded after so many seconds without a request, 0: never. ``workers`` serve it now,
    of ``replicas`` that it may have (``2``, ``1-2``). ``absent``: it is fetched from the hub when first asked for.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "mlx-server"
    type: Literal["model"] = "model"
    display_name: str
    created_at: str
    lifecycle: Literal["active", "retired"] = "active"  # retired: it cannot be loaded
    capabilities: ModelCapabilities | None = None
    max_tokens: None = None
    max_input_tokens: int | None = None
    status: Literal["hot", "loading", "downloading", "queued", "loadable", "failed"]
    loading: Loading | None = None
    download: Downloading | None = None
    absent: bool = False
    pinned: bool = False
    ttl: float = 0.0
    workers: int = 0
    replicas: str = "1"
    aliases: list[str] = []
    alias_of: str | None = None
    reason: str | None = None
    context_length: int | None = None
    size: int | None = None
    default_sampling: dict[str, float] | None = None


class ModelListResponse(Response):
    object: Literal["list"] = "list"
    data: list[ModelInfo]
    has_more: bool = False
    first_id: str | None
    last_id: str | None
