"""What operators and their programs ask of the broker, and its replies; and what an inspection of a model found."""

from typing import Literal

from shared.deltas import Failure
from shared.parts import Part


class Order(Part):
    """What an operator wants of a model. ``wait``: the reply comes when it is done, else at once.

    ``force``: of a pinned model too.
    """

    type: Literal["order"] = "order"
    query: str
    action: Literal["load", "unload", "reload"]
    model: str
    wait: bool = False
    force: bool = False


class OrderReply(Part):
    """``state``: of the model now; ``done``: whether it is as was ordered; ``failure``: why it never will be."""

    type: Literal["order_reply"] = "order_reply"
    query: str
    state: str = ""
    done: bool = False
    failure: Failure | None = None


class Reload(Part):
    """Read the settings anew."""

    type: Literal["reload"] = "reload"
    query: str


class Reloaded(Part):
    """To every api: the broker has read the settings anew. ``query``: of the api that asked; the others get none.

    ``lines``: what has changed. ``failure``: they cannot be used, and only the api that asked is told.
    """

    type: Literal["reloaded"] = "reloaded"
    query: str = ""
    lines: list[str] = []
    failure: Failure | None = None


class Inspection(Part):
    """What a child process of the broker prints of a model, as JSON.

    ``weights``: bytes in memory; 0: not known, because it is not on this disk yet. ``reason``: why it cannot be loaded.
    """

    weights: int = 0
    reason: str = ""
    permanent: bool = False


class Follow(Part):
    """What has changed since the change ``since`` of the broker with this ``epoch``?"""

    type: Literal["follow"] = "follow"
    query: str
    epoch: str
    since: int


class Change(Part):
    """``kind``: model, worker, memory or settings; ``detail``: a reason or phase, a worker's model, or a line."""

    serial: int
    kind: str
    name: str = ""
    state: str = ""
    detail: str = ""


class ChangesReport(Part):
    """``latest``: the serial number of the last change. ``changes``: None if they are not known so far back."""

    type: Literal["changes_report"] = "changes_report"
    query: str
    epoch: str
    latest: int
    changes: list[Change] | None = None
