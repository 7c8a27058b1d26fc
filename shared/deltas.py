"""What a worker answers a request with: the deltas of each choice, or a failure."""

from enum import StrEnum
from typing import Literal

from shared.encoding import Scores, Vectors
from shared.hosting import Place
from shared.parts import Ids, Part


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class Alternative(Part):
    id: int
    bytes: bytes
    logprob: float


class TokenLogprob(Alternative):
    """The chosen token, with the k most likely ones, best first. ``part``: where it belongs, if not to the content."""

    top: list[Alternative] = []
    part: Literal["thinking", "call"] | None = None


class Start(Part):
    """What is known once the prompt is tokenized; in the first delta of each choice.

    ``temperature`` and ``top_p`` are those in use, the model's own where the request left them open.
    The last three are set when echo was asked; ``prompt_logprobs``, of all ids but the first, with logprobs only.
    """

    prompt_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    cached_tokens: int = 0
    prompt_text: str | None = None
    prompt_ids: Ids | None = None
    prompt_logprobs: list[TokenLogprob] | None = None


class CallPiece(Part):
    """A part of a tool call: ``id`` and ``name`` in its first piece only; ``arguments`` is JSON text to append."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Finish(Part):
    reason: FinishReason
    completion_tokens: int
    reasoning_tokens: int = 0  # part of completion_tokens
    stop_sequence: str | None = None  # the stop string that ended the choice, if one did


class Predicted(Part):
    """Tokens of the request's prediction that were verified."""

    accepted: int = 0
    rejected: int = 0


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
    predicted: Predicted | None = None  # with it, so that what an earlier attempt verified stays counted
    vectors: Vectors | None = None  # these two are all of an encoder's answer, in one delta without ids
    scores: Scores | None = None
    place: Place | None = None  # of a hosted model: all that its worker says


class Failure(Part):
    """A refusal or an error as the client will see it; ``shared.errors.ServingError`` on the wire.

    The last two are set for a prompt that is longer than the context.
    """

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after: int | None = None
    prompt_tokens: int | None = None
    context_length: int | None = None
