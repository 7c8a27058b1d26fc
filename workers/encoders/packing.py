"""Decides which texts a step computes, and which of them in one group; pure.

Rule 1: a step has at most ``budget`` tokens, or one text.
Rule 2: callers get equal shares of it (``workers.engine.scheduling.fairness``); of one the shortest texts come first.
Rule 3: who was passed over for PATIENCE steps comes first.
Rule 4: of what is computed side by side at most a given share is padding.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from shared.callers import Asker
from workers.engine.scheduling.fairness import in_turns

PATIENCE = 4  # steps


@dataclass(eq=False)
class Pending:
    """A request's texts that wait, by their numbers, the longest first: the shortest is taken from the end.

    ``passed``: steps since it was last given something.
    """

    asker: Asker
    lengths: Sequence[int]
    waiting: list[int] = field(init=False)
    passed: int = 0

    def __post_init__(self) -> None:
        self.waiting = sorted(range(len(self.lengths)), key=lambda i: (-self.lengths[i], -i))

    @property
    def tokens(self) -> int:
        return sum(self.lengths[i] for i in self.waiting)


@dataclass(frozen=True)
class Choice:
    of: Pending
    text: int
    tokens: int


def choose(pending: Iterable[Pending], budget: int) -> list[Choice]:
    """What the next step computes; taken out of what waits."""
    pending = [each for each in pending if each.waiting]
    chosen: list[Choice] = []
    used = 0
    for choice in _in_order(pending, budget):
        if not chosen or used + choice.tokens <= budget:
            chosen.append(choice)
            used += choice.tokens
    taken = {(id(choice.of), choice.text) for choice in chosen}
    for each in pending:
        before = len(each.waiting)
        each.waiting = [text for text in each.waiting if (id(each), text) not in taken]
        each.passed = 0 if len(each.waiting) < before else each.passed + 1
    return chosen


def _in_order(pending: Sequence[Pending], budget: int) -> Iterator[Choice]:
    """Yields the choices in order, without texts that cannot fit."""
    late = sorted((each for each in pending if each.passed >= PATIENCE), key=lambda each: -each.passed)
    first = [Choice(each, each.waiting[-1], each.lengths[each.waiting[-1]]) for each in late]
    yield from first
    given = {(id(choice.of), choice.text) for choice in first}
    candidates = [choice for each in pending for choice in _shortest(each, budget)]
    candidates.sort(key=lambda choice: choice.tokens)
    for choice in in_turns(candidates, lambda choice: choice.of.asker, lambda choice: choice.tokens, ()):
        if (id(choice.of), choice.text) not in given:
            yield choice


def _shortest(pending: Pending, budget: int) -> Iterator[Choice]:
    """Yields the shortest texts until a step is full."""
    left = budget
    for text in reversed(pending.waiting):
        yield Choice(pending, text, pending.lengths[text])
        left -= pending.lengths[text]
        if left <= 0:
            return


def grouped(lengths: Sequence[int], padding: float) -> list[list[int]]:
    """The numbers of the texts, in groups: ``padding`` is the most that may be padding of a group's tokens."""
    groups: list[list[int]] = []
    longest = total = 0
    for text in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[text]
        wide = longest * (len(groups[-1]) + 1) if groups else 0
        if groups and wide - total - length <= padding * wide:
            groups[-1].append(text)
            total += length
        else:
            groups.append([text])
            longest = total = length
    return groups
