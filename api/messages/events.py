"""Deltas -> the server-sent events of /v1/messages. Pure.

Rule 1: every event has an ``event:`` line; clients drop those without.
Rule 2: message_start needs the prompt's length. A silence before it is filled with comments, after it with pings.
"""

from collections.abc import Sequence

from pydantic_core import to_json

from api.generation.blocks import Block, Blocks, Change, Closed, Grew, Opened
from api.generation.event_streams import KEEP_ALIVE
from api.generation.usage import Identity
from api.messages.answer import message, stop_reason, usage
from shared.protocol import Delta


def event(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), to_json({"type": kind, **fields}))


class MessageEvents:
    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._blocks = Blocks()
        self._started = False

    def render(self, batch: Sequence[Delta]) -> bytes:
        out = []
        for delta in batch:
            changes = list(self._blocks.take(delta))
            if not self._started:
                out.append(self._start())
            out += map(_rendered, changes)
        return b"".join(out)

    def idle(self) -> bytes:
        return event("ping") if self._started else KEEP_ALIVE

    def end(self) -> bytes:
        finish = self._blocks.finish
        delta = {
            "container": None,
            "stop_details": None,
            "stop_reason": stop_reason(finish),
            "stop_sequence": finish.stop_sequence if finish else None,
        }
        total = usage(self._blocks.counter).model_dump()
        return event("message_delta", delta=delta, usage=total) + event("message_stop")

    def _start(self) -> bytes:
        self._started = True
        empty = Blocks()
        empty.counter = self._blocks.counter
        return event("message_start", message=message(self._identity, empty).model_dump())


def _rendered(change: Change) -> bytes:
    match change:
        case Opened(block):
            return event("content_block_start", index=block.index, content_block=_empty(block))
        case Grew(block, piece):
            return event("content_block_delta", index=block.index, delta=_grown(block, piece))
        case Closed(block):
            return _signed(block) + event("content_block_stop", index=block.index)


def _empty(block: Block) -> dict[str, object]:
    match block.kind:
        case "text":
            return {"type": "text", "text": ""}
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "call":
            caller = {"type": "direct"}
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}, "caller": caller}


def _grown(block: Block, piece: str) -> dict[str, str]:
    match block.kind:
        case "text":
            return {"type": "text_delta", "text": piece}
        case "thinking":
            return {"type": "thinking_delta", "thinking": piece}
        case "call":
            return {"type": "input_json_delta", "partial_json": piece}


def _signed(block: Block) -> bytes:
    """Clients expect a signature after thinking; this server neither makes nor checks one."""
    if block.kind != "thinking":
        return b""
    return event("content_block_delta", index=block.index, delta={"type": "signature_delta", "signature": ""})
