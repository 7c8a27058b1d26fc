"""Guesses that are right, wrong, or both by turns, verified whether it pays or not."""

import random
from collections.abc import Callable, Sequence

from shared.protocol import Delta
from tests.workers.engines import ids
from workers.engine.speculation.depths import WidthCosts
from workers.engine.speculation.drafts import Draft
from workers.engine.speculation.speculator import Speculator
from workers.sequence import TokenSequence

Played = dict[tuple[str, int], list[Delta]]
Guess = Callable[[TokenSequence, int], list[int]]  # a sequence, and how many tokens at the most


class Scripted(Speculator):
    """Verifies whatever ``guess`` says, whether it pays or not."""

    def __init__(self, guess: Guess) -> None:
        super().__init__(lambda: WidthCosts(1.0, 0.0))
        self._guess = guess
        self.widths = set[int]()
        self._questions = 0

    def expects(self, sequences: Sequence[TokenSequence]) -> bool:
        """Two times of three, whatever passes take: between them a pass is launched ahead."""
        self._questions += 1
        return self._questions % 3 > 0

    def propose(self, sequences: Sequence[TokenSequence], room: Callable[[int], int]) -> list[Draft]:
        drafts = []
        for place, each in enumerate(sequences):
            guessed = self._guess(each, 15)[: max(0, min(room(place), each.drawable) - 1)]
            drafts.append(Draft(guessed, ["echo"] * len(guessed)))
            self.widths.add(len(guessed))
        return drafts if any(draft.ids for draft in drafts) else []


def right(answers: Played, depth: int) -> Guess:
    def guess(sequence: TokenSequence, most: int) -> list[int]:
        known = ids(answers[sequence.job.request_id, sequence.choice])
        return known[len(sequence.ids) :][: min(depth, most)]

    return guess


def wrong(answers: Played, depth: int) -> Guess:
    return lambda sequence, most: [(id + 1) % 250 for id in right(answers, depth)(sequence, most)]


def noise(answers: Played, depth: int) -> Guess:
    """Right for some tokens, then not, and of another length each time."""
    dice = random.Random(depth)

    def guess(sequence: TokenSequence, most: int) -> list[int]:
        known = right(answers, dice.randint(0, depth))(sequence, most)
        return [id if dice.random() < 0.7 else dice.randrange(250) for id in known]

    return guess
