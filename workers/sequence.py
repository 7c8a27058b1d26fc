"""A sequence: one choice of one request, from its first token to its finish.

The sequence turns token ids into deltas; it alone decides that a choice has ended. Held ids of an earlier attempt go
through the same path, muted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from shared.deltas import Predicted
from shared.protocol import Alternative, ChatPrompt, Delta, Finish, FinishReason, Start, TokenLogprob
from workers.grammars.grammar import Guide
from workers.grammars.thinking_budget import ThinkingBudget
from workers.job import Job, Output
from workers.output.channels import ChannelFilter
from workers.output.choice import ChoiceFilter, Shown
from workers.output.derived_calls import call_filter
from workers.output.detokenizer import as_vocabulary
from workers.output.reasoning import ReasoningFilter
from workers.output.text import Piece, StopStrings, TextFilter

Guess = tuple[int, bool]  # an id, and whether it is of the request's prediction


@dataclass(frozen=True)
class TokenRules:
    """What a tokenizer says about ids: the bytes of each, which end a turn, which are marks.

    ``marks``: the special tokens that choices with tools or thinking read as text.
    """

    vocabulary: Sequence[bytes]
    eos: frozenset[int]
    marks: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def marked(self) -> Sequence[bytes]:
        """The vocabulary with the marks."""
        return as_vocabulary(self.vocabulary).showing(self.marks) if self.marks else self.vocabulary


class TokenMask(Protocol):
    """What a grammar allows as the next token."""

    def mask(self) -> npt.NDArray[np.uint8]:
        """One bit per token id, the lowest bit first."""
        ...

    def forced(self) -> list[int]:
        """Ids that are likely to come next, because the grammar leaves no choice of text."""
        ...


@dataclass(frozen=True)
class TokenLogprobs:
    """The log-probability of a drawn token, and (id, log-probability) of the best tokens."""

    chosen: float
    top: list[tuple[int, float]]


@dataclass
class TokenSequence:
    job: Job
    choice: int
    rules: TokenRules
    forgets: int = 0  # how often kept prompts had been forgotten when it came
    cached_tokens: int = 0
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    prompt_logprobs: list[TokenLogprob] | None = None  # when the prompt was scored

    def __post_init__(self) -> None:
        job = self.job
        self._filter = choice_filter(job, self.choice)
        vocabulary = self.rules.marked if self._filter else self.rules.vocabulary
        continues = not isinstance(job.generation.prompt, ChatPrompt)
        stops = job.generation.stopping.stop
        self._text = TextFilter(vocabulary, () if self._filter else stops, continues=continues)
        self._stops = StopStrings(stops)  # of the answer, where thinking or calls are split off
        self.ending = self.rules.eos | job.ends  # the ids that end it, if they may
        self._reasoning_tokens = 0
        self._started = False
        self._guesses: list[Guess] = []  # that this pass verifies and that were not reached yet
        self._accepted = self._rejected = 0  # ids of a prediction, since the last output
        guide = job.grammar.guide(self.rules.marked) if job.grammar else None
        self.guide: Guide | ThinkingBudget | None = guide
        if job.thinking_budget is not None:
            self.guide = ThinkingBudget(
                guide, self._thought_enough, job.thinking_end, len(self.rules.vocabulary)
            )

    def _thought_enough(self) -> bool:
        thinks = self._filter is not None and self._filter.thinking
        return thinks and self._reasoning_tokens >= (self.job.thinking_budget or 0)

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
                return self._output(Shown(), [], None, finish)
        return None

    def finish_unbegun(self) -> Output:
        """The only output of a choice of no tokens."""
        return self._output(Shown(), [], None, self._end(FinishReason.LENGTH))

    def expect(self, guesses: list[Guess]) -> None:
        """Before a pass that verifies them; for the usage."""
        self._guesses = guesses

    def _count_prediction(self, id: int) -> None:
        """A wrong guess ends the pass, so those behind it are rejected too."""
        if not self._guesses:
            return
        guess, predicted = self._guesses[0]
        if guess == id:
            self._accepted += predicted
            self._guesses = self._guesses[1:]
        else:
            self._reject_guesses()

    def _reject_guesses(self) -> None:
        self._rejected += sum(predicted for _, predicted in self._guesses)
        self._guesses = []

    def score_prompt(self, scores: Sequence[TokenLogprobs]) -> None:
        """``scores`` are of the prompt's ids behind the first, in order; they may come in several parts."""
        entries = self.prompt_logprobs or []
        following = self.job.prompt[1 + len(entries) :]
        added = [self._entry(id, score) for id, score in zip(following, scores, strict=False)]
        self.prompt_logprobs = entries + added

    def push(self, id: int, logprobs: TokenLogprobs | None) -> Output:
        """What the token at the next index gives to the client."""
        before = self._part
        shown, finish = self._take(id)
        part = self._part or (None if shown.text else before)
        entry = [self._entry(id, logprobs, part)] if logprobs else None
        return self._output(shown, [id], entry, finish)

    @property
    def _part(self) -> Literal["thinking", "call"] | None:
        return None if self._filter is None else self._filter.part

    def _take(self, id: int) -> tuple[Shown, Finish | None]:
        piece, reason = self._read(id)
        if self._filter is None:
            shown = Shown(piece.text)
        else:
            return self._stopped(*self._split(self._filter, piece.text, reason))
        return shown, self._end(reason, piece.stopped) if reason else None

    def _stopped(self, shown: Shown, reason: FinishReason | None) -> tuple[Shown, Finish | None]:
        """Stop strings are looked for in the answer, and not in thinking or in calls."""
        may_stop = len(self.ids) > self.job.generation.stopping.min_tokens
        piece = self._stops.push(shown.text, may_stop=may_stop)
        if reason and not piece.stopped:
            rest = self._stops.flush()
            piece = Piece(piece.text + rest.text, rest.stopped)
        shown = Shown(piece.text, shown.reasoning, [] if piece.stopped else shown.calls)
        if piece.stopped:
            reason = FinishReason.STOP
        return shown, self._end(reason, piece.stopped) if reason else None

    def _read(self, id: int) -> tuple[Piece, FinishReason | None]:
        """The token's text, and whether the choice ends with it."""
        stopping = self.job.generation.stopping
        self.ids.append(id)
        self._count_prediction(id)
        if self.guide:
            self.guide.take(id)
        may_stop = len(self.ids) > stopping.min_tokens
        if id in self.ending and not stopping.ignore_eos and may_stop:
            return self._text.flush(), FinishReason.STOP
        piece = self._text.push(id, may_stop=may_stop)
        reason = FinishReason.STOP if piece.stopped else self._reason()
        if piece.stopped or not reason:
            return piece, reason
        rest = self._text.flush()
        return Piece(piece.text + rest.text, rest.stopped), FinishReason.STOP if rest.stopped else reason

    def _reason(self) -> FinishReason | None:
        """Why nothing may follow, if so."""
        if self.guide and self.guide.complete:
            return FinishReason.STOP
        if len(self.ids) >= self.job.max_tokens or (self.guide and self.guide.failed):
            return FinishReason.LENGTH
        return None

    def _split(
        self, filter: ChoiceFilter | ChannelFilter, text: str, reason: FinishReason | None
    ) -> tuple[Shown, FinishReason | None]:
        """The text as thinking, calls and answer; a call may be what the choice ends with."""
        thinking = filter.thinking
        shown = filter.push(text)
        self._reasoning_tokens += thinking or filter.thinking
        if filter.satisfied:
            reason = FinishReason.STOP
        if reason is None:
            return shown, None
        shown += filter.flush(closed=reason is FinishReason.STOP)
        called = reason is FinishReason.STOP and filter.called
        return shown, FinishReason.TOOL_CALLS if called else reason

    def _end(self, reason: FinishReason, stopped: str | None = None) -> Finish:
        self.ended = True
        self._reject_guesses()
        return Finish(
            reason=reason,
            completion_tokens=len(self.ids),
            reasoning_tokens=self._reasoning_tokens,
            stop_sequence=stopped,
        )

    def _output(
        self, shown: Shown, ids: list[int], logprobs: list[TokenLogprob] | None, finish: Finish | None
    ) -> Output:
        delta = Delta(
            request_id=self.job.request_id,
            attempt=self.job.attempt,
            choice=self.choice,
            index=len(self.ids) - len(ids),
            ids=ids,
            text=shown.text,
            reasoning=shown.reasoning,
            calls=shown.calls,
            logprobs=logprobs,
            start=self._start(),
            finish=finish,
            predicted=self._newly_predicted(),
        )
        return Output(self.job.api, delta)

    def _newly_predicted(self) -> Predicted | None:
        accepted, rejected = self._accepted, self._rejected
        self._accepted = self._rejected = 0
        return Predicted(accepted=accepted, rejected=rejected) if accepted or rejected else None

    def _start(self) -> Start | None:
        if self._started:
            return None
        self._started = True
        return Start(
            prompt_tokens=len(self.job.prompt),
            temperature=self.job.generation.sampling.temperature,
            top_p=self.job.generation.sampling.top_p,
            cached_tokens=self.cached_tokens,
            prompt_text=self.job.prompt_text,
            prompt_ids=self.job.prompt if self.job.generation.echo else None,
            prompt_logprobs=self.prompt_logprobs,
        )

    def _entry(
        self, id: int, logprobs: TokenLogprobs, part: Literal["thinking", "call"] | None = None
    ) -> TokenLogprob:
        depth = self.job.generation.logprobs or 0
        top = [
            Alternative(id=other, bytes=self._bytes(other), logprob=value)
            for other, value in logprobs.top[:depth]
        ]
        return TokenLogprob(id=id, bytes=self._bytes(id), logprob=logprobs.chosen, top=top, part=part)

    def _bytes(self, id: int) -> bytes:
        return self.rules.vocabulary[id] if id < len(self.rules.vocabulary) else b""


def choice_filter(job: Job, choice: int) -> ChoiceFilter | ChannelFilter | None:
    """None for a choice whose text is shown as it is."""
    key = f"{job.request_id}|{choice}"
    if job.opened is not None:
        return ChannelFilter(job.opened, job.tool_policy, key)
    if job.thinking is None and job.tool_policy is None:
        return None
    return ChoiceFilter(
        ReasoningFilter(job.thinking) if job.thinking else None,
        call_filter(job.tool_policy, key) if job.tool_policy else None,
    )
