"""A row: one choice of one request, from its first token to its finish.

The row turns token ids into deltas; it alone decides that a choice has ended. Held ids of an earlier attempt go
through the same path, muted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.protocol import Alternative, Delta, Finish, FinishReason, Start, TokenLogprob
from workers.engine.seam import Job, Output
from workers.text import Piece, TextFilter


@dataclass(frozen=True)
class TokenRules:
    """What a tokenizer says about ids: the bytes of each, and which end a turn."""

    vocabulary: Sequence[bytes]
    eos: frozenset[int]


@dataclass(frozen=True)
class LogprobsOf:
    """Of one drawn token: its own log-probability and the best ones' (id, logprob)."""

    chosen: float
    top: list[tuple[int, float]]


@dataclass
class Row:
    job: Job
    choice: int
    rules: TokenRules
    cached_tokens: int = 0
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    prompt_logprobs: list[TokenLogprob] | None = None  # when the prompt was scored

    def __post_init__(self) -> None:
        stopping = self.job.generation.stopping
        self._text = TextFilter(self.rules.vocabulary, stopping.stop)
        self._started = False
        grammar = self.job.grammar
        self.guide = grammar.guide(self.rules.vocabulary) if grammar else None

    @property
    def held(self) -> list[int]:
        return self.job.held[self.choice] if self.choice < len(self.job.held) else []

    @property
    def drawable(self) -> int:
        """Tokens that may still be drawn."""
        return 0 if self.ended else self.job.max_tokens - len(self.ids)

    def replay(self) -> Output | None:
        """Takes the held ids in; gives the finish if an earlier attempt had already come to it."""
        for id in self.held:
            _, finish = self._take(id)
            if finish:
                return self._output(Piece(""), [], None, finish)
        return None

    def finish_unbegun(self) -> Output:
        """The only output of a choice of no tokens."""
        _, finish = self._end(Piece(""), FinishReason.LENGTH)
        return self._output(Piece(""), [], None, finish)

    def score_prompt(self, scores: Sequence[LogprobsOf]) -> None:
        """``scores`` are of the prompt's ids behind the first, in order; they may come in several parts."""
        entries = self.prompt_logprobs or []
        following = self.job.prompt[1 + len(entries) :]
        added = [self._entry(id, score) for id, score in zip(following, scores, strict=False)]
        self.prompt_logprobs = entries + added

    def push(self, id: int, logprobs: LogprobsOf | None) -> Output:
        """What the token at the next index gives to the client."""
        piece, finish = self._take(id)
        entry = [self._entry(id, logprobs)] if logprobs else None
        return self._output(piece, [id], entry, finish)

    def _take(self, id: int) -> tuple[Piece, Finish | None]:
        stopping = self.job.generation.stopping
        self.ids.append(id)
        count = len(self.ids)
        if self.guide:
            self.guide.take(id)
        may_stop = count > stopping.min_tokens
        if id in self.rules.eos and not stopping.ignore_eos and may_stop:
            return self._end(self._text.flush(), FinishReason.STOP)
        piece = self._text.push(id, may_stop=may_stop)
        if piece.stopped:
            return self._end(piece, FinishReason.STOP)
        if self.guide and self.guide.complete:
            return self._end_all(piece, FinishReason.STOP)
        if count >= self.job.max_tokens or (self.guide and self.guide.failed):
            return self._end_all(piece, FinishReason.LENGTH)
        return piece, None

    def _end_all(self, piece: Piece, reason: FinishReason) -> tuple[Piece, Finish]:
        rest = self._text.flush()
        return self._end(Piece(piece.text + rest.text, rest.stopped), reason)

    def _end(self, piece: Piece, reason: FinishReason) -> tuple[Piece, Finish]:
        self.ended = True
        if piece.stopped:
            reason = FinishReason.STOP
        return piece, Finish(reason=reason, completion_tokens=len(self.ids), stop_sequence=piece.stopped)

    def _output(
        self, piece: Piece, ids: list[int], logprobs: list[TokenLogprob] | None, finish: Finish | None
    ) -> Output:
        delta = Delta(
            request_id=self.job.request_id,
            attempt=self.job.attempt,
            choice=self.choice,
            index=len(self.ids) - len(ids),
            ids=ids,
            text=piece.text,
            logprobs=logprobs,
            start=self._start(),
            finish=finish,
        )
        return Output(self.job.api, delta)

    def _start(self) -> Start | None:
        if self._started:
            return None
        self._started = True
        return Start(
            prompt_tokens=len(self.job.prompt),
            cached_tokens=self.cached_tokens,
            prompt_text=self.job.prompt_text,
            prompt_ids=self.job.prompt if self.job.generation.echo else None,
            prompt_logprobs=self.prompt_logprobs,
        )

    def _entry(self, id: int, logprobs: LogprobsOf) -> TokenLogprob:
        depth = self.job.generation.logprobs or 0
        top = [
            Alternative(id=other, bytes=self._bytes(other), logprob=value)
            for other, value in logprobs.top[:depth]
        ]
        return TokenLogprob(id=id, bytes=self._bytes(id), logprob=logprobs.chosen, top=top)

    def _bytes(self, id: int) -> bytes:
        return self.rules.vocabulary[id] if id < len(self.rules.vocabulary) else b""
