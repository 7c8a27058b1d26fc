"""Guesses the next tokens of a sequence without a model. Pure.

A guess comes from what the grammar leaves no choice in, from the text that the request predicts, or from an earlier
place of prompt and answer that reads like the end of the answer. A draft model (``draft_model``) may say what follows
where these say nothing. A wrong guess costs time and changes no token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workers.engine.speculation.corpus import LOOK_BACK, Corpus
from workers.sequence import Guess

# An echo has few ids before it in common; a model guesses where these have nothing, or are wrong more often.
Source = Literal["grammar", "prediction", "copy", "echo", "model"]
SOURCES: tuple[Source, ...] = ("grammar", "prediction", "copy", "echo", "model")
LONG = 8  # ids in common that make a copy
INDEXED = 16_384  # last ids of a prompt that are looked up


@dataclass(frozen=True)
class Draft:
    """``sources`` has the source of each of ``ids``, and of those that a model has still to guess."""

    ids: list[int]
    sources: list[Source]

    @property
    def unknown(self) -> int:
        """How many ids a model has still to guess."""
        return len(self.sources) - len(self.ids)

    @property
    def forced(self) -> "Draft":
        """What the grammar leaves no choice in."""
        return self.first(self.sources.count("grammar"))

    def then(self, number: int) -> "Draft":
        """With so many that a model has to guess."""
        more: list[Source] = ["model"] * number
        return Draft(self.ids, self.sources + more)

    def known_as(self, ids: Sequence[int]) -> "Draft":
        """With what a model guessed, which may be less than it was asked for."""
        known = [*self.ids, *ids]
        return Draft(known, self.sources[: len(known)])

    def first(self, number: int) -> "Draft":
        return Draft(self.ids[:number], self.sources[:number])

    @property
    def guesses(self) -> list[Guess]:
        pairs = zip(self.ids, self.sources, strict=True)
        return [(id, source == "prediction") for id, source in pairs]


class Drafter:
    """Of one sequence. Its memory of the ids is indexed on first use."""

    def __init__(self, prompt: Sequence[int], prediction: Sequence[int] = ()) -> None:
        self._prediction = Corpus(prediction)
        self._at: int | None = 0 if prediction else None  # the place in the prediction that comes next
        self._text = Corpus(prompt[-INDEXED:])
        self._taken = 0  # generated ids that were looked at

    def draft(self, generated: Sequence[int], most: int, forced: Sequence[int] = ()) -> Draft:
        """At most ``most`` ids. ``generated`` grows from call to call; ``forced``: what the grammar says comes next."""
        self._take(generated[self._taken :])
        ids: list[int] = list(forced[:most])
        sources: list[Source] = ["grammar"] * len(ids)
        at = self._ahead(ids)
        if at is not None and len(ids) < most:
            more = self._prediction.ids[at : at + most - len(ids)]
            ids, sources = ids + more, sources + ["prediction"] * len(more)
        elif len(ids) < most:
            more, alike = self._copied(ids, most - len(ids))
            source: Source = "copy" if alike >= LONG else "echo"
            ids, sources = ids + more, sources + [source] * len(more)
        return Draft(ids, sources)

    def _take(self, ids: Sequence[int]) -> None:
        self._taken += len(ids)
        self._text.extend(ids)
        at = self._at
        for id in ids:
            at = at + 1 if at is not None and self._prediction.ids[at : at + 1] == [id] else None
        self._at = at if at is not None else self._found()

    def _found(self) -> int | None:
        size = len(self._text.ids)
        at, alike = self._prediction.find(self._text.ids[size - min(self._taken, LOOK_BACK) :])
        return at if alike else None

    def _ahead(self, ids: Sequence[int]) -> int | None:
        """The place in the prediction behind ``ids``; None where they or the end of the prediction leave it."""
        if self._at is None or self._prediction.ids[self._at : self._at + len(ids)] != ids:
            return None
        at = self._at + len(ids)
        return at if at < len(self._prediction.ids) else None

    def _copied(self, ahead: Sequence[int], most: int) -> tuple[list[int], int]:
        """What followed an earlier place; a place may overlap its copy, as in text that repeats itself."""
        text = self._text.ids
        at, alike = self._text.find([*text[-LOOK_BACK:], *ahead])
        ids = text[at : at + most] if alike else []
        period = [*ids, *ahead] if len(ids) < most else ids
        return (period * -(-most // len(period)))[:most] if ids else [], alike
