"""The unacked log: deltas that the api has not acknowledged, from which a new attempt is answered. Pure.

Rule 1: an entry lives from its Run until the api is done with it; after its end it is retained for a while.
Rule 2: the engine keeps the attempt it began with; its deltas are sent under the newest attempt.
Rule 3: an answer resumes exactly where the api's tokens end. If it cannot, the request is run again.
"""

from collections import deque
from dataclasses import dataclass, field

from shared.protocol import Delta, RunHeader

MAX_TOKENS = 8192  # retained per choice; an api that acknowledges none of so many gets its request run again


@dataclass
class UnackedChoice:
    """Consecutive deltas of one choice, from the token index ``first`` up to ``next``."""

    first: int
    next: int
    deltas: deque[Delta] = field(default_factory=deque)

    def append(self, delta: Delta) -> None:
        self.deltas.append(delta)
        self.next = delta.index + len(delta.ids)
        self.drop_below(self.next - MAX_TOKENS)

    def drop_below(self, below: int) -> None:
        while self.deltas and self.deltas[0].index + len(self.deltas[0].ids) <= below:
            if self.deltas[0].finish:
                return
            delta = self.deltas.popleft()
            self.first = delta.index + len(delta.ids)

    def can_resume_at(self, index: int) -> bool:
        """Whether a retained delta begins at ``index``, or the next one will."""
        if not self.first <= index <= self.next:
            return False
        return index == self.next or any(delta.index == index for delta in self.deltas)


class UnackedRequest:
    """The log entry of one request. ``running`` is the attempt the engine knows, ``attempt`` the api's newest."""

    def __init__(self, header: RunHeader) -> None:
        self.api = header.api
        self.attempt = self.running = header.submit.attempt
        self.ended_at: float | None = None
        self._choices = [UnackedChoice(length, length) for length in held_lengths(header)]
        self._open = set(range(len(self._choices)))

    @property
    def ended(self) -> bool:
        return not self._open

    def append(self, delta: Delta) -> Delta:
        """Retains a delta of the engine and returns it under the api's attempt."""
        self._choices[delta.choice].append(delta)
        if delta.finish:
            self._open.discard(delta.choice)
        return self._addressed(delta)

    def acknowledge(self, choice: int, next_index: int) -> None:
        if choice < len(self._choices):
            self._choices[choice].drop_below(next_index)

    def resume(self, header: RunHeader) -> list[Delta] | None:
        """Switches to a new attempt and returns the deltas to send again; None if they do not join the api's tokens."""
        lengths = held_lengths(header)
        if len(lengths) != len(self._choices):
            return None
        if not all(
            choice.can_resume_at(length) for choice, length in zip(self._choices, lengths, strict=True)
        ):
            return None
        self.api, self.attempt = header.api, header.submit.attempt
        return [
            self._addressed(delta)
            for choice, length in zip(self._choices, lengths, strict=True)
            for delta in choice.deltas
            if delta.index >= length
        ]

    def _addressed(self, delta: Delta) -> Delta:
        return delta if delta.attempt == self.attempt else delta.model_copy(update={"attempt": self.attempt})


def held_lengths(header: RunHeader) -> list[int]:
    """How many tokens the api holds, by choice."""
    lengths = header.submit.lengths
    return [lengths[choice] if choice < len(lengths) else 0 for choice in range(header.submit.n)]
