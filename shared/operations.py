"""What operators and their programs ask of the broker, and its replies; and what an inspection of a model found."""

from typing import Literal

from shared.deltas import Failure
from shared.parts import Part


class Order(Part):
    """What an operator wants of a model. ``wait``: the reply comes when it is done, else at once.

    ``pull`` fetches it from the hub, ``cancel`` ends that; what has arrived is kept.

    ``force``: of a pinned model too.
    """

    type: Literal["order"] = "order"
    query: str
    action: Literal["load", "unload", "reload", "pull", "cancel"]
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

    ``architecture``: as its config names it. ``weights``: bytes in memory; 0: not known. ``absent``: it is of the hub
    and not whole on this disk. ``reason``: why it cannot be loaded.
    """

    weights: int = 0
    architecture: str = ""
    absent: bool = False
    reason: str = ""
    permanent: bool = False


class DownloadReport(Part):
    """A line of a child process that fetches a model of the hub, as JSON: how far it is, or how it ended.

    ``phase``: wait (for another process that fetches it), connect, download or finish; ``done`` of ``total`` bytes are
    here. The last line says that it is ``whole``, or the ``reason`` why not; ``permanent``: as of a load.
    """

    phase: str = ""
    done: int = 0
    total: int = 0
    whole: bool = False
    reason: str = ""
    permanent: bool = False


class SpareReady(Part):
    """A line of a spare worker process, as JSON: it has imported everything. ``footprint``: bytes that it takes."""

    footprint: int


class Assignment(Part):
    """The line that makes a spare process this ``worker`` of this ``model``, as JSON."""

    worker: str
    model: str


class Status(Part):
    """Asks for a StatusReport with the same ``query``; ``figures``: and with what all api processes have counted."""

    type: Literal["status"] = "status"
    query: str
    figures: bool = False


class ForgetPrompts(Part):
    """What is kept of the prompts of a ``namespace`` is to be forgotten; None: of all. To broker and workers."""

    type: Literal["forget_prompts"] = "forget_prompts"
    query: str
    namespace: str | None = None


class PromptsForgotten(Part):
    """From each worker, and of all of them to the api: bytes that were forgotten, in memory and on disk.

    ``models``: of the workers that said so. ``reason``: why some of it is still on disk.
    """

    type: Literal["prompts_forgotten"] = "prompts_forgotten"
    query: str
    memory: int = 0
    disk: int = 0
    models: list[str] = []
    reason: str = ""


class Follow(Part):
    """What has changed since the change ``since`` of the broker with this ``epoch``?"""

    type: Literal["follow"] = "follow"
    query: str
    epoch: str
    since: int


class Change(Part):
    """``kind``: model, worker, download, memory or settings.

    ``detail``: a reason or phase, a worker's model, how far a download is, or a line.
    """

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


Operation = Order | Reload | Follow | Status | ForgetPrompts
OperationReply = OrderReply | Reloaded | ChangesReport | PromptsForgotten
"""A Status is answered with a StatusReport."""
