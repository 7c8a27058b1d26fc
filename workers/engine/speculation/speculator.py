"""What the engine asks before a pass, and tells after it: how many guesses of each sequence a pass should verify."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from workers.engine.batch import Batch, PendingStep
from workers.engine.cpu.install import Invariance
from workers.engine.figures import Report
from workers.engine.scheduling.plan import Costs
from workers.engine.speculation.depths import Rates, WidthCosts, depths
from workers.engine.speculation.draft_model import DraftModel
from workers.engine.speculation.drafts import Draft, Drafter
from workers.job import Output
from workers.sequence import TokenSequence

Mode = Literal["auto", "on", "off"]

LONGEST = 15  # guesses of one sequence
PATIENT = 32  # sequences; beside more of them nothing is looked up
FEW = 8  # sequences; beside more of them no draft model is asked, as it guesses for one after another


@dataclass
class Counts:
    """Of guessed tokens since the engine began."""

    drafted: int = 0
    accepted: int = 0
    passes: int = 0
    by_model: int = 0  # of those drafted
    right_by_model: int = 0

    @property
    def acceptance(self) -> float:
        return round(self.accepted / self.drafted, 4) if self.drafted else 0.0


@dataclass
class _Known:
    drafter: Drafter
    rates: Rates = field(default_factory=Rates)


class Speculator:
    """``costs``: of passes, as believed before any was measured."""

    def __init__(self, costs: Callable[[], WidthCosts], model: DraftModel | None = None) -> None:
        self._make_costs = costs
        self._costs: WidthCosts | None = None
        self._model = model
        # By the identity of the sequence, which ``_sequences`` keeps alive.
        self._known: dict[int, _Known] = {}
        self._sequences: dict[int, TokenSequence] = {}
        self._width = 0  # of the last pass, if it verified guesses
        self._spent = 0.0  # seconds of the draft model before the last pass
        self.counts = Counts()

    @property
    def costs(self) -> WidthCosts:
        self._costs = self._costs or self._make_costs()
        return self._costs

    @property
    def nbytes(self) -> int:
        return self._model.nbytes if self._model else 0

    def propose(self, sequences: Sequence[TokenSequence], room: Callable[[int], int]) -> list[Draft]:
        """A draft for each sequence, empty ones included; no drafts at all where none pays.

        ``room``: tokens that the sequence at a place can take without more memory, its next one included.
        """
        offers = self._offers(sequences, room)
        chosen = self._chosen(sequences, offers)
        for known, offer, depth in zip(self._all_known(sequences), offers, chosen, strict=True):
            if offer.sources and not depth:
                known.rates.untried()
        drafts = [
            self._made(sequence, offer.first(depth))
            for sequence, offer, depth in zip(sequences, offers, chosen, strict=True)
        ]
        if (model := self._asked(sequences)) and not any("model" in draft.sources for draft in drafts):
            model.untried()
        return drafts if any(draft.ids for draft in drafts) else []

    def expects(self, sequences: Sequence[TokenSequence]) -> bool:
        """Whether guesses may pay, by the tokens known so far."""
        offers = self._offers(sequences, lambda place: LONGEST)
        return any(self._chosen(sequences, offers))

    def _offers(self, sequences: Sequence[TokenSequence], room: Callable[[int], int]) -> list[Draft]:
        """What might be verified of each sequence."""
        self._forget(sequences)
        if len(sequences) > PATIENT or not any(each.job.speculates for each in sequences):
            return [Draft([], []) for _ in sequences]
        model, places = (
            self._asked(sequences),
            [min(room(i), each.drawable) for i, each in enumerate(sequences)],
        )
        free = [self._draft(each, place) for each, place in zip(sequences, places, strict=True)]
        if model is None:
            return free
        model.read([each for each in sequences if each.job.speculates])
        offers = [self._with_model(model, *each) for each in zip(sequences, places, free, strict=True)]
        # A model that is too dear keeps no sequence from guessing without it.
        chosen = self._chosen(sequences, offers)
        return [offer if depth else own for offer, depth, own in zip(offers, chosen, free, strict=True)]

    def _asked(self, sequences: Sequence[TokenSequence]) -> DraftModel | None:
        return self._model if len(sequences) <= FEW else None

    def _with_model(self, model: DraftModel, sequence: TokenSequence, place: int, draft: Draft) -> Draft:
        """The model guesses behind what a grammar forces, where nothing else is right as often."""
        rates, forced = self._of(sequence).rates, draft.forced
        others = draft.sources[len(forced.ids) :]
        most = min(LONGEST, place - 1) - len(forced.ids)
        if not sequence.job.speculates or most < 1 or (others and rates(others[0]) >= rates("model")):
            return draft
        number = min(most, model.most(sequence) - len(forced.ids))
        return forced.then(number) if number > 0 else draft

    def _made(self, sequence: TokenSequence, offer: Draft) -> Draft:
        if not offer.unknown or self._model is None:
            return offer
        return offer.known_as(self._model.draft(sequence, offer.ids, offer.unknown))

    def _chosen(self, sequences: Sequence[TokenSequence], offers: Sequence[Draft]) -> list[int]:
        """How many guesses of each offer are verified: none as well where that has to be measured anew."""
        if not any(offer.sources for offer in offers) or self.costs.unsure:
            return [0] * len(offers)
        chances = [
            [known.rates(source) for source in offer.sources]
            for known, offer in zip(self._all_known(sequences), offers, strict=True)
        ]
        price = self._model.price if self._model else 0.0
        prices = [[0.0] * len(offer.ids) + [price] * offer.unknown for offer in offers]
        return depths(chances, self.costs, prices)

    def verify(self, batch: Batch, collect: Callable[[list[PendingStep]], list[Output]]) -> list[Output]:
        """What a pass over guesses gives; nothing where none is worth a pass."""
        room, sequences = batch.make_room(), batch.sequences
        drafts = self.propose(sequences, room)
        if not drafts:
            return []
        before = [len(sequence.ids) for sequence in sequences]
        for sequence, draft in zip(sequences, drafts, strict=True):
            sequence.expect(draft.guesses)
        outputs = [out for step in batch.verify([draft.ids for draft in drafts]) for out in collect([step])]
        for sequence, draft, length in zip(sequences, drafts, before, strict=True):
            self._learn(sequence, draft, sequence.ids[length:])
        self._width = len(drafts) + sum(len(draft.ids) for draft in drafts)
        self.counts.passes += 1
        return outputs

    def decoded(self, rows: int, seconds: float) -> None:
        """What the last pass took, with one token of each of so many sequences if it verified nothing."""
        spent = self._model.spent if self._model else 0.0
        seconds = max(0.0, seconds - (spent - self._spent))
        self.costs.measured(self._width or rows, seconds, verified=self._width > 0)
        self._width, self._spent = 0, spent

    def _learn(self, sequence: TokenSequence, draft: Draft, drawn: Sequence[int]) -> None:
        """``drawn``: what the pass gave the sequence; all but the last one were guessed."""
        right = sum(id == guess for id, guess in zip(drawn, draft.ids, strict=False))
        self.counts.drafted += len(draft.ids)
        self.counts.accepted += right
        self.counts.by_model += draft.sources.count("model")
        self.counts.right_by_model += draft.sources[:right].count("model")
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
            if self._model:
                self._model.keep(sequences)


def may_speculate(mode: Mode, invariance: Invariance, takes_back: bool) -> bool:
    """Whether sequences of a model are guessed for. ``auto``: only where guesses change no bit.

    That is where a sequence has the same bits in any batch, and so beside its own guesses. ``takes_back``: whether
    what a wrong guess leaves in the caches can be dropped.
    """
    return takes_back and (mode == "on" or (mode == "auto" and invariance == "exact"))


def speculator_for(
    mode: Mode,
    invariance: Invariance,
    takes_back: bool,
    costs: Callable[[], Costs],
    draft: DraftModel | None = None,
    given: Speculator | None = None,
) -> Speculator | None:
    """None where nothing is guessed. ``given``: one that guesses in any mode."""
    if not may_speculate("on" if given else mode, invariance, takes_back):
        return None
    return given or Speculator(
        lambda: WidthCosts(max(costs().fixed, costs().floor), costs().per_token), draft
    )


def bytes_of(speculator: Speculator | None) -> int:
    """Keys and values of the draft model."""
    return speculator.nbytes if speculator else 0


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
        "drafted_by_model": counts.by_model,
        "accepted_of_model": counts.right_by_model,
    }
