"""The stream of chat completions of another server -> deltas, which every dialect renders. Pure.

Rule 1: whatever a server leaves out (ids of calls, usage, a reason to stop) the deltas have all the same.
"""

import secrets
from collections.abc import Iterator
from typing import Any

from api.hosting.lines import Lines, TooLong
from api.hosting.passing import Tokens, read_json
from shared.protocol import CallPiece, Delta, Finish, FinishReason, Start

_REASONS = {
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}


class BadChunk(Exception):
    """What came is no chunk; or it is an error, in the server's words."""


class Chunks:
    """Pieces of bytes in, deltas of one choice out; ``end`` gives the last one."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.complete = False
        self._lines = Lines()
        self._index = 0
        self._reason: str | None = None
        self._begun: set[int] = set()  # calls that have an id and a name

    @property
    def texts(self) -> int:
        """Deltas so far."""
        return self._index

    def take(self, piece: bytes) -> Iterator[Delta]:
        """Raises BadChunk."""
        try:
            lines = self._lines.take(piece)
        except TooLong:
            raise BadChunk("it sent an event that is too long") from None
        for line in lines.split(b"\n"):
            if line.startswith(b"data:"):
                yield from self._event(line[5:].strip())

    def end(self) -> Delta:
        """Raises BadChunk when the stream was cut."""
        if not self.complete and self._reason is None:
            raise BadChunk("it ended before it was whole")
        count = self.tokens.out or self._index
        self.tokens.out = count
        reason = _REASONS.get(self._reason or "", FinishReason.STOP)
        if self._begun and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        start = Start(
            prompt_tokens=self.tokens.prompt, cached_tokens=min(self.tokens.cached, self.tokens.prompt)
        )
        finish = Finish(reason=reason, completion_tokens=count)
        return Delta(request_id="", attempt=0, index=self._index, start=start, finish=finish)

    def _event(self, data: bytes) -> Iterator[Delta]:
        if data == b"[DONE]":
            self.complete = True
            return
        try:
            chunk = read_json(data)
        except ValueError:
            raise BadChunk("it sent an event that is no JSON") from None
        if not isinstance(chunk, dict):
            raise BadChunk("it sent an event that is no chunk")
        if error := chunk.get("error"):
            raise BadChunk(str(error.get("message") if isinstance(error, dict) else error)[:500])
        self.tokens.read(chunk)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and not choice.get("index"):
                yield from self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> Iterator[Delta]:
        said = choice.get("delta")
        delta = said if isinstance(said, dict) else {}
        self._reason = _text(choice.get("finish_reason")) or self._reason
        text = _text(delta.get("content"))
        reasoning = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
        listed = delta.get("tool_calls")
        calls = (
            [self._call(one) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        )
        if text or reasoning or calls:
            yield Delta(
                request_id="",
                attempt=0,
                index=self._index,
                ids=[0],
                text=text,
                reasoning=reasoning,
                calls=calls,
            )
            self._index += 1

    def _call(self, call: dict[str, Any]) -> CallPiece:
        index = call.get("index") if type(call.get("index")) is int else len(self._begun)
        function = call.get("function") if isinstance(call.get("function"), dict) else {}
        assert isinstance(index, int)
        assert isinstance(function, dict)
        arguments = _text(function.get("arguments"))
        if index in self._begun:
            return CallPiece(index=index, arguments=arguments)
        self._begun.add(index)
        id = _text(call.get("id")) or f"call_{secrets.token_hex(12)}"
        return CallPiece(index=index, id=id, name=_text(function.get("name")), arguments=arguments)


def _text(value: Any) -> str:
    """Half a surrogate pair has no bytes."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else ""
