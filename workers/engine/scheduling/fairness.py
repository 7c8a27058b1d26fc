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
RANKS = {level: rank for rank, level in enumerate(LEVELS)}

T = TypeVar("T")


def level(priority: Priority, steps: int) -> int:
    """Of a request that has waited so many steps; 0 is the highest."""
    return max(0, RANKS[priority] - steps // LEVEL_STEPS)


def weights(waiting: Sequence[tuple[Priority, int]]) -> list[int]:
    """What a sequence of each counts, by its priority and the steps it has waited; 1 for the highest that waits."""
    highest = min((RANKS[priority] for priority, _ in waiting), default=0)
    return [SHARE ** max(0, RANKS[priority] - highest - steps // LEVEL_STEPS) for priority, steps in waiting]


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
    askers, counts, held = [asker(each) for each in urgent], [sequences(each) for each in urgent], list(held)
    by_group = _before(askers, counts, Counter(held))
    within = sorted(range(len(urgent)), key=by_group.__getitem__)
    callers = [askers[i].caller for i in within]
    by_caller = _before(callers, [counts[i] for i in within], Counter(asker.caller for asker in held))
    shares = [before + 1 for before in by_caller]
    if weight is not None:
        shares = [share * weight[i] for share, i in zip(shares, within, strict=True)]
    return [urgent[i] for _, i in sorted(zip(shares, within, strict=True))]


def _before(owners: Iterable[Hashable], sequences: Iterable[int], held: Counter[Hashable]) -> list[int]:
    """For each entry, how many sequences its owner has or gets before it."""
    before = []
    for owner, more in zip(owners, sequences, strict=True):
        had = held.get(owner, 0)
        before.append(had)
        held[owner] = had + more
    return before
