"""Hosted models: what an api asks of a model that another server answers, and where that server is.

Such a request is a lease: its worker answers with a Place and keeps it for the request until the api says Done or
Cancel. What is said in between passes from the api to that server by HTTP; the broker and the worker see none of it.
"""

from typing import Final, Literal, get_args

from shared.parts import Part

Endpoint = Literal[
    "chat",
    "completions",
    "embeddings",
    "rerank",
    "responses",
    "messages",
    "audio/transcriptions",
    "audio/speech",
    "images",
]
ENDPOINTS: Final[tuple[Endpoint, ...]] = get_args(Endpoint)
PATHS: Final[dict[Endpoint, str]] = {
    **{endpoint: f"/v1/{endpoint}" for endpoint in ENDPOINTS},
    "chat": "/v1/chat/completions",
    "images": "/v1/images/generations",
}
STREAMED: Final[tuple[Endpoint, ...]] = ("chat", "completions", "responses", "messages")
"""Endpoints whose answers may be streams, which have an event by which they end."""


class Hosted(Part):
    """``size``: bytes of the request's body; ``digest``: of the body, to know one again that crashes its server."""

    kind: Literal["hosted"] = "hosted"
    param: str = "model"
    endpoint: Endpoint
    size: int = 0
    digest: str = ""

    @property
    def n(self) -> int:
        return 1


class Place(Part):
    """Where a request may go now. ``server`` names one life of the hosted server; ``model`` is its name there.

    ``endpoints``: those that the server has.
    """

    server: str
    url: str
    model: str
    endpoints: list[Endpoint]
