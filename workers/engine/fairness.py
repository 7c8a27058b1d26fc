"""Orders waiting requests fairly: callers get equal numbers of batch slots, and so do the groups of a caller. Pure.

A group holds the requests of one HTTP request; without an API key each group counts as a caller. A caller of higher
priority gets ``SHARE`` times as many slots as one of the next level. Waiting raises a request's level, so that no level
starves.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar, get_args

from shared.callers import Asker
from shared.key_terms import Priority

SHARE = 4
LEVEL_STEPS = 64  # of the engine, after which a request counts as of the next higher priority
LEVELS: tuple[Priority, ...] = get_args(Priority)  # the first goes first

T = TypeVar("T")


def weights(waiting: Sequence[tuple[Priority, int]]) -> list[int]:
    """What a sequence of each counts, by its priority and the steps it has waited; 1 for the highest that waits."""
    highest = min((LEVELS.index(priority) for priority, _ in waiting), default=0)
    levels = [LEVELS.index(priority) - highest - steps // LEVEL_STEPS for priority, steps in waiting]
    return [SHARE ** max(0, level) for level in levels]


def in_turns(
    urgent: Sequence[T],
    asker: Callable[[T], Asker],
    sequences: Callable[[T], int],
    held: Iterable[Asker],
    weight: Sequence[int] | None = None,
) -> list[T]:
    """Reorders ``urgent`` (most urgent first): an asker with fewer sequences goes first. ``held``: one per sequence.

    ``weight``: what a sequence of each entry counts.
    """
    weight = weight or [1] * len(urgent)
    held = list(held)
    by_group = _before(urgent, asker, sequences, Counter(held))
    within = sorted(range(len(urgent)), key=lambda i: by_group[i])
    ordered = [urgent[i] for i in within]
    by_caller = _before(ordered, lambda each: asker(each).caller, sequences, Counter(a.caller for a in held))
    shares = [(by_caller[i] + 1) * weight[within[i]] for i in range(len(ordered))]
    return [ordered[i] for i in sorted(range(len(ordered)), key=lambda i: (shares[i], within[i]))]


def _before(
    things: Sequence[T],
    whose: Callable[[T], Hashable],
    sequences: Callable[[T], int],
    held: Counter[Hashable],
) -> list[int]:
    """For each entry, how many sequences its owner has or gets before it."""
    before = []
    for each in things:
        before.append(held[whose(each)])
        held[whose(each)] += sequences(each)
    return before
