"""What the engine asks before a pass, and tells after it: how many guesses of each sequence a pass should verify."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from workers.engine.batch import Batch, PendingStep
from workers.engine.cpu.install import Invariance
from workers.engine.figures import Report
from workers.engine.scheduling.plan import Costs
from workers.engine.speculation.depths import Rates, WidthCosts, depths
from workers.engine.speculation.drafts import Draft, Drafter
from workers.job import Output
from workers.sequence import TokenSequence

Mode = Literal["auto", "on", "off"]

LONGEST = 15  # guesses of one sequence
PATIENT = 32  # sequences; beside more of them nothing is looked up


@dataclass
class Counts:
    """Of guessed tokens since the engine began."""

    drafted: int = 0
    accepted: int = 0
    passes: int = 0

    @property
    def acceptance(self) -> float:
        return round(self.accepted / self.drafted, 4) if self.drafted else 0.0


@dataclass
class _Known:
    drafter: Drafter
    rates: Rates = field(default_factory=Rates)


class Speculator:
    """``costs``: of passes, as believed before any was measured."""

    def __init__(self, costs: Callable[[], WidthCosts]) -> None:
        self._make_costs = costs
        self._costs: WidthCosts | None = None
        # By the identity of the sequence, which ``_sequences`` keeps alive.
        self._known: dict[int, _Known] = {}
        self._sequences: dict[int, TokenSequence] = {}
        self._width = 0  # of the last pass, if it verified guesses
        self.counts = Counts()

    @property
    def costs(self) -> WidthCosts:
        self._costs = self._costs or self._make_costs()
        return self._costs

    def propose(self, sequences: Sequence[TokenSequence], room: Callable[[int], int]) -> list[Draft]:
        """A draft for each sequence, empty ones included; no drafts at all where none pays.

        ``room``: tokens that the sequence at a place can take without more memory, its next one included.
        """
        self._forget(sequences)
        if len(sequences) > PATIENT or not any(each.job.speculates for each in sequences):
            return []
        drafts = [self._draft(each, min(room(i), each.drawable)) for i, each in enumerate(sequences)]
        if not any(draft.ids for draft in drafts):
            return []
        chances = [
            [known.rates(source) for source in draft.sources]
            for known, draft in zip(self._all_known(sequences), drafts, strict=True)
        ]
        chosen = depths(chances, self.costs)
        for known, draft, depth in zip(self._all_known(sequences), drafts, chosen, strict=True):
            if draft.ids and not depth:
                known.rates.untried()
        if not any(chosen):
            return []
        return [draft.first(depth) for draft, depth in zip(drafts, chosen, strict=True)]

    def expects(self, sequences: Sequence[TokenSequence]) -> bool:
        """Whether guesses may pay, by the tokens known so far."""
        return bool(self.propose(sequences, lambda place: LONGEST))

    def verify(self, batch: Batch, collect: Callable[[list[PendingStep]], list[Output]]) -> list[Output]:
        """What a pass over guesses gives; nothing where none is worth a pass."""
        room, sequences = batch.make_room(), batch.sequences
        drafts = self.propose(sequences, room)
        if not drafts:
            return []
        before = [len(sequence.ids) for sequence in sequences]
        for sequence, draft in zip(sequences, drafts, strict=True):
            sequence.predict(draft.predicted)
        outputs = [out for step in batch.verify([draft.ids for draft in drafts]) for out in collect([step])]
        for sequence, draft, length in zip(sequences, drafts, before, strict=True):
            sequence.predict([])
            self._learn(sequence, draft, sequence.ids[length:])
        self._width = len(drafts) + sum(len(draft.ids) for draft in drafts)
        self.counts.passes += 1
        return outputs

    def decoded(self, rows: int, seconds: float) -> None:
        """What the last pass took, with one token of each of so many sequences if it verified nothing."""
        self.costs.measured(self._width or rows, seconds)
        self._width = 0

    def _learn(self, sequence: TokenSequence, draft: Draft, drawn: Sequence[int]) -> None:
        """``drawn``: what the pass gave the sequence; all but the last one were guessed."""
        right = sum(id == guess for id, guess in zip(drawn, draft.ids, strict=False))
        self.counts.drafted += len(draft.ids)
        self.counts.accepted += right
        known = self._of(sequence)
        for place, source in enumerate(draft.sources[: min(right + 1, len(drawn))]):
            known.rates.verified(source, place < right)

    def _draft(self, sequence: TokenSequence, room: int) -> Draft:
        most = min(LONGEST, room - 1)
        known = self._of(sequence)
        if most < 1 or not sequence.job.speculates:
            return Draft([], [])
        forced = sequence.guide.forced() if sequence.guide else []
        return known.drafter.draft(sequence.ids, most, forced)

    def _all_known(self, sequences: Sequence[TokenSequence]) -> list[_Known]:
        return [self._of(sequence) for sequence in sequences]

    def _of(self, sequence: TokenSequence) -> _Known:
        if id(sequence) not in self._known:
            self._sequences[id(sequence)] = sequence
            self._known[id(sequence)] = _Known(Drafter(sequence.job.prompt, sequence.job.prediction))
        return self._known[id(sequence)]

    def _forget(self, sequences: Sequence[TokenSequence]) -> None:
        """Those that have left the batch."""
        if len(self._known) > len(sequences):
            here = {id(sequence) for sequence in sequences}
            for each in [each for each in self._known if each not in here]:
                del self._known[each], self._sequences[each]


def speculator_for(mode: Mode, invariance: Invariance, costs: Callable[[], Costs]) -> Speculator | None:
    """``auto``: only where a sequence has the same bits in any batch, and so beside its own guesses."""
    if mode == "off" or (mode == "auto" and invariance != "exact"):
        return None
    return Speculator(lambda: WidthCosts(costs().fixed, costs().per_token))


def report_of(speculator: Speculator | None) -> Report:
    if speculator is None:
        return {"speculation": "off"}
    counts = speculator.counts
    return {
        "speculation": "on",
        "drafted_tokens": counts.drafted,
        "accepted_tokens": counts.accepted,
        "acceptance_rate": counts.acceptance,
        "verify_passes": counts.passes,
    }
