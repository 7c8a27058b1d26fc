"""The rows that decode together, and the one forward pass a step gives all of them.

A row joins with its first token, if its prompt was read to the end, or gets it from its first pass.
``launch`` may start the next pass before the last one's tokens have been looked at, so that the host's work on tokens
hides behind the model's. A row that turns out to have ended rides along in one pass more, which nobody reads. Beside a
row with a grammar the pass is only started: its last token is looked at, and its mask made, while the model runs; then
``draw`` gives the pass its tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import mlx.core as mx
import numpy as np

from shared.callers import Asker
from workers.engine.kv.mlx_caches import Cache, Place
from workers.engine.kv.row_caches import Decoding
from workers.engine.sampling.sampler import Drawn, RowParameters, Sampler
from workers.sequence import LogprobsOf, Row, TokenMask

Forward = Callable[[mx.array, Cache], mx.array]  # tokens (rows, n), cache -> logits (rows, n, vocabulary)
Guided = tuple[int, TokenMask]  # the place of a row with a grammar


@dataclass
class Seat:
    """A row in the batch. ``drawn`` is the index of its next draw, ahead of ``row.ids`` by what is in flight."""

    row: Row
    parameters: RowParameters
    drawn: int
    token: int  # the last known one; the first input, if the cache does not hold it yet
    launched: bool = False  # a pass with it was

    @property
    def begun(self) -> bool:
        """Its client has tokens, or some are on their way that wait for nobody."""
        return self.launched or bool(self.row.ids)

    @property
    def length(self) -> int:
        """Tokens in its cache."""
        return len(self.row.job.prompt) - 1 + self.drawn

    @property
    def fed(self) -> list[int]:
        """The ids its cache holds."""
        known = [*self.row.job.prompt, *self.row.ids]
        return known[: self.length]

    @property
    def done(self) -> bool:
        return self.row.ended or self.drawn >= self.row.job.max_tokens


@dataclass
class Flight:
    """A pass that was launched: who was aboard, and the tokens it will give."""

    seats: list[Seat]
    drawn: Drawn

    def land(self) -> list[tuple[Row, int, LogprobsOf | None]]:
        """Waits for the tokens; leaves out the rows that have ended meanwhile."""
        mx.eval(self.drawn.arrays)
        ids = cast(list[int], self.drawn.tokens.tolist())
        logprobs = self._logprobs()
        return [
            (seat.row, id, logprobs.get(i))
            for i, (seat, id) in enumerate(zip(self.seats, ids, strict=True))
            if not seat.row.ended
        ]

    def _logprobs(self) -> dict[int, LogprobsOf]:
        best = self.drawn.best
        return dict(zip(self.drawn.asking, best.entries(), strict=True)) if best else {}


class Batch:
    """``leaving`` gets each row that ends, with its cache; what it does not keep is gone."""

    def __init__(
        self, forward: Forward, caches: Decoding, leaving: Callable[[Seat, Callable[[int], Cache]], None]
    ) -> None:
        self._forward = forward
        self._caches = caches
        self._leaving = leaving
        self._seats: list[Seat] = []
        self._inputs = mx.array([], dtype=mx.uint32)
        self._sampler = Sampler([])
        self._guided: list[Guided] = []

    def __len__(self) -> int:
        return sum(not seat.done for seat in self._seats)

    @property
    def occupied(self) -> bool:
        """Also by rows that have ended and are still to be put away."""
        return bool(self._seats)

    @property
    def fresh(self) -> bool:
        """Nobody has heard of any row here yet."""
        return not any(seat.begun for seat in self._seats if not seat.done)

    @property
    def nbytes(self) -> int:
        return self._caches.nbytes

    @property
    def askers(self) -> list[Asker]:
        """One for each row."""
        return [seat.row.job.asker for seat in self._seats if not seat.done]

    def evict_youngest(self, caller: str | None = None) -> Row:
        """Takes out the row, or the caller's row, with the fewest generated tokens; nothing may be in flight."""
        self.drop_done()
        theirs = [seat for seat in self._seats if caller in (None, seat.row.job.asker.caller)]
        youngest = min(theirs, key=lambda seat: seat.drawn)
        self._keep_seats([i for i, seat in enumerate(self._seats) if seat is not youngest])
        return youngest.row

    @property
    def waits(self) -> bool:
        """Whether a draw must see its logits, or a mask the last token: then land between start and draw."""
        return self._sampler.waits or bool(self._guided)

    def join(
        self, seats: list[Seat], read: Cache, places: list[Place], logits: mx.array | None = None
    ) -> Flight | None:
        """``places`` are those of the seats' tokens in what was read.

        ``logits`` (seats, vocabulary) if it was read to its end: then the flight has the seats' first tokens.
        """
        self.drop_done()
        order = self._caches.join(read, places)
        tokens = mx.array([seat.token for seat in seats], dtype=mx.uint32)
        first = None
        if logits is not None:
            first = _draw(seats, _sampler(seats), _guided(seats), logits, tokens)
            tokens = first.drawn.tokens
        self._inputs = mx.concatenate([self._inputs, tokens])
        self._seats = [*self._seats, *seats]
        self._set_order(order)
        return first

    def launch(self) -> Flight | None:
        """The pass that gives each row its next token; None when no row needs one."""
        logits = self.start()
        return None if logits is None else self.draw(logits)

    def start(self) -> mx.array | None:
        """Its logits (rows, vocabulary); those of a batch that waits are on their way."""
        self.drop_done()
        if not self._seats:
            return None
        self._caches.begin()
        logits = self._forward(self._inputs[:, None], self._caches.layers)[:, -1, :]
        if self.waits:
            mx.async_eval(logits)
        return logits

    def draw(self, logits: mx.array) -> Flight:
        """``logits`` as ``start`` gave them; rows that ended since ride along."""
        flight = _draw(self._seats, self._sampler, self._guided, logits, self._inputs)
        self._inputs = flight.drawn.tokens
        for seat in self._seats:
            seat.launched = True
        return flight

    def drop_done(self) -> None:
        """Puts away the rows that have ended."""
        keep = [i for i, seat in enumerate(self._seats) if not seat.done]
        if len(keep) == len(self._seats):
            return
        for i, seat in enumerate(self._seats):
            if seat.done:
                self._leaving(seat, partial(self._caches.cache_of, i))
        self._keep_seats(keep)

    def _keep_seats(self, keep: list[int]) -> None:
        self._set_order(self._caches.keep(keep))

    def _set_order(self, order: list[int]) -> None:
        self._inputs = self._inputs[mx.array(order, dtype=mx.uint32)]
        self._seats = [self._seats[i] for i in order]
        self._sampler, self._guided = _sampler(self._seats), _guided(self._seats)


def _sampler(seats: list[Seat]) -> Sampler:
    return Sampler([seat.parameters for seat in seats])


def _guided(seats: list[Seat]) -> list[Guided]:
    return [(i, seat.row.guide) for i, seat in enumerate(seats) if seat.row.guide]


def _draw(
    seats: list[Seat], sampler: Sampler, guided: list[Guided], logits: mx.array, last: mx.array
) -> Flight:
    """``last`` (seats,): the tokens before."""
    guided = [(i, guide) for i, guide in guided if not seats[i].row.ended]
    mask = _allowed(guided, *logits.shape) if guided else None
    drawn = sampler.draw(logits, [seat.drawn for seat in seats], mask, last)
    mx.async_eval(drawn.arrays)
    for seat in seats:
        seat.drawn += 1
    return Flight(list(seats), drawn)


def _allowed(guided: list[Guided], rows: int, vocabulary: int) -> mx.array:
    """Shape (rows, vocabulary), bool; made on the host while the forward pass runs."""
    flags = np.ones((rows, vocabulary), dtype=np.bool_)
    for row, guide in guided:
        flags[row] = np.unpackbits(guide.mask(), count=vocabulary, bitorder="little")
    return mx.array(flags)
