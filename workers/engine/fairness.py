"""Whose turn it is: batch slots are shared out evenly between callers, and between the groups of a caller. Pure.

A group is what came with one HTTP request; of callers without a key each group counts as a caller.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from shared.callers import Asker

T = TypeVar("T")


def in_turns(
    urgent: Sequence[T], asker: Callable[[T], Asker], sequences: Callable[[T], int], held: Iterable[Asker]
) -> list[T]:
    """``urgent``, most urgent first, so that the asker with fewer sequences goes first; ``held``: one per sequence."""
    held = list(held)
    by_group = _before(urgent, asker, sequences, Counter(held))
    within = sorted(range(len(urgent)), key=lambda i: by_group[i])
    ordered = [urgent[i] for i in within]
    by_caller = _before(ordered, lambda each: asker(each).caller, sequences, Counter(a.caller for a in held))
    return [ordered[i] for i in sorted(range(len(ordered)), key=lambda i: (by_caller[i], within[i]))]


def _before(
    things: Sequence[T],
    whose: Callable[[T], Hashable],
    sequences: Callable[[T], int],
    held: Counter[Hashable],
) -> list[int]:
    """For each, the sequences that its owner has or gets before it."""
    before = []
    for each in things:
        before.append(held[whose(each)])
        held[whose(each)] += sequences(each)
    return before
