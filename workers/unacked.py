"""What this worker has said and the api has not acknowledged: a new attempt is answered from it. Pure.

Rule 1: a record lives from its Run until the api is done with it; one that has ended is kept for a while.
Rule 2: the engine goes on under the attempt it began with; what it gives is said under the newest.
Rule 3: an answer goes on where the api's tokens end, or not at all: then the request is run anew.
"""

from collections import deque
from dataclasses import dataclass, field

from shared.protocol import Delta, Run

MAX_TOKENS = 8192  # of one choice; who acknowledges none of so many is answered by running anew


@dataclass
class Choice:
    """Deltas that follow one another from ``first`` to ``next``, which are token indices."""

    first: int
    next: int
    deltas: deque[Delta] = field(default_factory=deque)

    def keep(self, delta: Delta) -> None:
        self.deltas.append(delta)
        self.next = delta.index + len(delta.ids)
        self.forget(self.next - MAX_TOKENS)

    def forget(self, below: int) -> None:
        while self.deltas and self.deltas[0].index + len(self.deltas[0].ids) <= below:
            if self.deltas[0].finish:
                return
            delta = self.deltas.popleft()
            self.first = delta.index + len(delta.ids)

    def joins(self, index: int) -> bool:
        """Whether a delta begins there, or the next one will."""
        if not self.first <= index <= self.next:
            return False
        return index == self.next or any(delta.index == index for delta in self.deltas)


class Record:
    """One request that is here. ``running`` is the engine's attempt, ``attempt`` the api's."""

    def __init__(self, run: Run) -> None:
        self.api = run.api
        self.attempt = self.running = run.submit.attempt
        self.ended_at: float | None = None
        self._choices = [Choice(length, length) for length in held_lengths(run)]
        self._open = set(range(len(self._choices)))

    @property
    def ended(self) -> bool:
        return not self._open

    def keep(self, delta: Delta) -> Delta:
        """The engine's delta as the api expects it."""
        self._choices[delta.choice].keep(delta)
        if delta.finish:
            self._open.discard(delta.choice)
        return self._addressed(delta)

    def acknowledge(self, choice: int, next_index: int) -> None:
        if choice < len(self._choices):
            self._choices[choice].forget(next_index)

    def adopt(self, run: Run) -> list[Delta] | None:
        """What is to be said again under the new attempt; None: it does not join what the api holds."""
        lengths = held_lengths(run)
        if len(lengths) != len(self._choices):
            return None
        if not all(choice.joins(length) for choice, length in zip(self._choices, lengths, strict=True)):
            return None
        self.api, self.attempt = run.api, run.submit.attempt
        return [
            self._addressed(delta)
            for choice, length in zip(self._choices, lengths, strict=True)
            for delta in choice.deltas
            if delta.index >= length
        ]

    def _addressed(self, delta: Delta) -> Delta:
        return delta if delta.attempt == self.attempt else delta.model_copy(update={"attempt": self.attempt})


def held_lengths(run: Run) -> list[int]:
    """By choice, how many tokens the api has."""
    held = run.submit.held
    return [len(held[choice]) if choice < len(held) else 0 for choice in range(run.submit.generation.n)]
