"""What is known of the HTTP request that is being served: its model and its key's name, for what counts requests."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Served:
    """Configured names only: any other text of a client would be a new series of the metrics."""

    model: str = ""
    key: str = ""


class Tally(Protocol):
    """What the guard tells of each request."""

    def answered(self, route: str, status: int, who: Served) -> None: ...
    def refused(self, code: str) -> None: ...


served: ContextVar[Served | None] = ContextVar("served", default=None)


def note_model(model: str) -> None:
    """``model``: of the settings."""
    if current := served.get():
        current.model = model
