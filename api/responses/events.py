"""Deltas -> the server-sent events of /v1/responses. Pure.

Rule 1: response.created comes first, an item before its parts, a part before its deltas; ids never change.
Rule 2: every event has an ``event:`` line and the next sequence number.
Rule 3: events fill a silence, as Codex drops a stream that sends only comments.
"""

from collections.abc import Iterator, Sequence

from pydantic_core import to_json

from api.generation.blocks import Block, Blocks, Change, Closed, Grew, Opened
from api.generation.usage import Identity
from api.responses.answer import (
    ended,
    failed,
    in_progress,
    item,
    item_id,
    logprobs,
    status,
    text_part,
)
from api.responses.schemas import ResponseObject, ResponsesRequest
from api.responses.tools import called
from shared.errors import ServingError
from shared.protocol import Delta

KEEP_ALIVE = "keepalive"  # OpenAI's streams have this event; its documents do not


class ResponseEvents:
    def __init__(self, identity: Identity, request: ResponsesRequest) -> None:
        self._identity = identity
        self._request = request
        self._blocks = Blocks()
        self._sequence = 0

    def render(self, batch: Sequence[Delta]) -> bytes:
        out = [self._begin()]
        for delta in batch:
            for change in self._blocks.take(delta):
                out += self._changed(change)
        return b"".join(out)

    def idle(self) -> bytes:
        return self._begin() or self._event(KEEP_ALIVE)

    def ended(self, at: int) -> ResponseObject:
        return ended(self._identity, self._request, self._blocks, at)

    def end(self, response: ResponseObject) -> bytes:
        return self._event(f"response.{response.status}", response=response.model_dump())

    def fail(self, error: ServingError) -> bytes:
        """The error in OpenAI's and Open Responses' shape, then the failed response."""
        told = {"code": error.code, "message": error.message, "param": error.param}
        kind = "server_error" if error.status >= 500 else "invalid_request_error"
        response = failed(self._identity, self._request, self._blocks, error).model_dump()
        return b"".join(
            [
                self._begin(),
                self._event("error", **told, error={"type": kind, **told}),
                self._event("response.failed", response=response),
            ]
        )

    # ---- one event

    def _event(self, kind: str, **fields: object) -> bytes:
        data = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), to_json(data))

    def _begin(self) -> bytes:
        if self._sequence:
            return b""
        response = in_progress(self._identity, self._request).model_dump()
        kinds = ("response.created", "response.in_progress")
        return b"".join(self._event(kind, response=response) for kind in kinds)

    def _changed(self, change: Change) -> Iterator[bytes]:
        block = change.block
        match change:
            case Opened():
                begun = item(self._identity, self._request, block, "in_progress").model_dump()
                yield self._event("response.output_item.added", output_index=block.index, item=begun)
                if block.kind != "call":
                    yield self._of("response.content_part.added", block, part=_part(block))
            case Grew(piece=piece):
                scores = {"logprobs": [one.model_dump() for one in logprobs(change.logprobs)]}
                yield self._of(
                    f"{_name(block)}.delta", block, delta=piece, **(scores if block.kind == "text" else {})
                )
            case Closed():
                yield from self._closed(block)

    def _closed(self, block: Block) -> Iterator[bytes]:
        match block.kind:
            case "text":
                part = text_part(block).model_dump()
                yield self._of(f"{_name(block)}.done", block, text=block.text, logprobs=part["logprobs"])
            case "thinking":
                yield self._of(f"{_name(block)}.done", block, text=block.text)
            case "call":
                _, name = called(self._request, block.name)
                yield self._of(f"{_name(block)}.done", block, name=name, arguments=block.text)
        if block.kind != "call":
            yield self._of("response.content_part.done", block, part=_part(block))
        whole = item(self._identity, self._request, block, status(block, self._blocks)).model_dump()
        yield self._event("response.output_item.done", output_index=block.index, item=whole)

    def _of(self, kind: str, block: Block, **fields: object) -> bytes:
        where: dict[str, object] = {
            "item_id": item_id(self._identity, block),
            "output_index": block.index,
        }
        if block.kind != "call":
            where["content_index"] = 0
        return self._event(kind, **where, **fields)


def _name(block: Block) -> str:
    names = {
        "text": "response.output_text",
        "thinking": "response.reasoning_text",
        "call": "response.function_call_arguments",
    }
    return names[block.kind]


def _part(block: Block) -> dict[str, object]:
    if block.kind == "thinking":
        return {"type": "reasoning_text", "text": block.text}
    return text_part(block).model_dump()
