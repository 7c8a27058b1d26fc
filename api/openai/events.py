"""Deltas -> the server-sent events of /v1/chat/completions and /v1/completions. Pure.

Rule 1: the first chunks are those of the choices' roles, in index order; a role is never repeated.
Rule 2: a choice ends with a chunk that has only its finish_reason; usage, if requested, is the last chunk.
Rule 3: events are ``data:`` lines, and comments during a silence; never ``id:``, which breaks openai-python.

A chunk's head and tail are made once for the stream, so that only the text is encoded for each token. A chunk with
more than text takes a slower way. Tests compare the bytes with the schemas in ``api.openai.schemas``.
"""

from collections import defaultdict
from collections.abc import Sequence

from pydantic_core import to_json

from api.generation.event_streams import KEEP_ALIVE
from api.generation.usage import Identity, TokenCounter
from api.openai.answer import echoed, usage
from api.openai.logprobs import CompletionScores, chat_logprobs
from api.openai.pieces import chunk_deltas
from shared.protocol import Delta

DONE = b"data: [DONE]\n\n"


class _Frame:
    """The bytes around the choice in every chunk of one stream."""

    def __init__(self, kind: bytes, identity: Identity, include_usage: bool) -> None:
        self.head = b'data: {"id":%b,"object":"%b","created":%d,"model":%b,"choices":[{"index":' % (
            to_json(identity.id),
            kind,
            identity.created,
            to_json(identity.model),
        )
        self.tail = b'}],"usage":null}\n\n' if include_usage else b"}]}\n\n"
        self._include_usage = include_usage

    def last(self, counter: TokenCounter) -> bytes:
        if not self._include_usage:
            return DONE
        start = self.head.removesuffix(b'{"index":')
        return b'%b],"usage":%b}\n\n%b' % (start, usage(counter).model_dump_json().encode(), DONE)


class ChatEvents:
    """``legacy``: a call is answered as ``function_call``."""

    def __init__(self, identity: Identity, n: int, include_usage: bool, legacy: bool = False) -> None:
        self._legacy = legacy
        self._frame = _Frame(b"chat.completion.chunk", identity, include_usage)
        head, tail = self._frame.head, self._frame.tail
        self._tally = TokenCounter(n)
        self._roles = b"".join(
            b'%b%d,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null%b'
            % (head, choice, tail)
            for choice in range(n)
        )
        self._content = [b'%b%d,"delta":{"content":' % (head, choice) for choice in range(n)]
        self._plain_tail = b'},"logprobs":null,"finish_reason":null' + tail

    def render(self, batch: Sequence[Delta]) -> bytes:
        out = [self._roles]
        self._roles = b""
        for delta in batch:
            if delta.logprobs or delta.calls or delta.reasoning:
                out += self._more_than_text(delta)
            elif delta.text:
                out += self._content[delta.choice], to_json(delta.text), self._plain_tail
            if (delta.start or delta.finish or delta.predicted) is not None:
                self._tally.see(delta)
            if delta.finish is not None:
                out.append(self._finish(delta.choice, delta.finish.reason.value))
        return b"".join(out)

    def end(self) -> bytes:
        return self._frame.last(self._tally)

    def idle(self) -> bytes:
        return KEEP_ALIVE

    def _more_than_text(self, delta: Delta) -> list[bytes]:
        """The first chunk of a delta has the log probabilities of all its tokens."""
        out = []
        scores = chat_logprobs(delta.logprobs).model_dump_json().encode() if delta.logprobs else b"null"
        for inner in chunk_deltas(delta, self._legacy):
            out.append(
                b'%b%d,"delta":%b,"logprobs":%b,"finish_reason":null%b'
                % (
                    self._frame.head,
                    delta.choice,
                    inner.model_dump_json(exclude_unset=True).encode(),
                    scores,
                    self._frame.tail,
                )
            )
            scores = b"null"
        return out

    def _finish(self, choice: int, reason: str) -> bytes:
        if self._legacy and reason == "tool_calls":
            reason = "function_call"
        return b'%b%d,"delta":{},"logprobs":null,"finish_reason":"%b"%b' % (
            self._frame.head,
            choice,
            reason.encode(),
            self._frame.tail,
        )


class CompletionEvents:
    def __init__(self, identity: Identity, n: int, include_usage: bool) -> None:
        self._frame = _Frame(b"text_completion", identity, include_usage)
        self._tally = TokenCounter(n)
        self._scores: defaultdict[int, CompletionScores] = defaultdict(CompletionScores)

    def render(self, batch: Sequence[Delta]) -> bytes:
        out = []
        for delta in batch:
            self._tally.see(delta)
            text, scores = echoed(delta.start) + delta.text, self._logprobs(delta)
            if text or scores != b"null":
                out.append(self._chunk(delta.choice, text, scores, b"null"))
            if delta.finish is not None:
                out.append(
                    self._chunk(delta.choice, "", b"null", b'"%b"' % delta.finish.reason.value.encode())
                )
        return b"".join(out)

    def idle(self) -> bytes:
        return KEEP_ALIVE

    def end(self) -> bytes:
        return self._frame.last(self._tally)

    def _logprobs(self, delta: Delta) -> bytes:
        if not delta.logprobs and (delta.start is None or delta.start.prompt_logprobs is None):
            return b"null"
        return self._scores[delta.choice].next(delta.logprobs or (), delta.start).model_dump_json().encode()

    def _chunk(self, choice: int, text: str, logprobs: bytes, reason: bytes) -> bytes:
        return b'%b%d,"text":%b,"logprobs":%b,"finish_reason":%b%b' % (
            self._frame.head,
            choice,
            to_json(text),
            logprobs,
            reason,
            self._frame.tail,
        )
