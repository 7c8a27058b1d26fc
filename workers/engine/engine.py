"""The engine: every request of a model in one batch.

One step, to be recited:
1. read: the next piece of the prompts that wait, as much as keeps the pause of the decoding rows under the target;
2. seat: a prompt that is read becomes a row for each of its choices, with its first token, drawn from what the pass
   that read it gave; rows that nobody has heard of yet wait a moment for prompts that could still come with them, and
   then land with what they have;
3. launch: the forward pass that draws every row's next token;
4. land: its tokens, as text, log-probabilities and finishes; on an accelerator those of the pass before, so that the
   next one is under way meanwhile. On a CPU a launch takes as long as its pass, as MLX lets the host run no more than a
   hundred operations ahead: there, tokens would only lie about for a step, and rows that end ride along in one more.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from workers.device import has_accelerator
from workers.engine.admission import Admission
from workers.engine.batch import Batch, Flight, Seat
from workers.engine.batch_probe import shows_ends
from workers.engine.cpu.install import Invariance, give_back_freed_memory
from workers.engine.figures import Figures, Report
from workers.engine.kv.budget import Budget
from workers.engine.kv.cost import measure_cost
from workers.engine.kv.mlx_caches import (
    Cache,
    Place,
    blank,
    can_merge,
    can_pad,
    feed,
    feed_one,
    is_plain,
    merge,
    new_cache,
    places,
)
from workers.engine.kv.prefix_cache import PrefixCache
from workers.engine.kv.row_caches import Alone, caches_for
from workers.engine.last_logits import read_to_ends
from workers.engine.preemption import Preemption
from workers.engine.prefill import PASSED, Reading, Waiting
from workers.engine.prefill_budget import Pace
from workers.engine.prefix_reuse import Keeping
from workers.engine.sampling.logit_processors import adjustment_for
from workers.engine.sampling.logprobs import score_one
from workers.engine.sampling.sampler import RowParameters
from workers.job import Job, KvUse, Output
from workers.sequence import LogprobsOf, Row, TokenRules

HOLD = 15  # gaps that rows wait with their first token for prompts to be read beside theirs
# Chunks of several prompts in a pass that keeps nobody waiting: attention does not cost more for them. A prompt of more
# is long: nobody waits for it.
ABREAST = 3


@dataclass(frozen=True)
class EngineLimits:
    rows: int = 32  # sequences decoded together; 1 for a model that ``batch_probe`` finds fault with
    chunk: int = 512  # most tokens of a prompt read in one step; of several together, ABREAST times as many
    gap: float = 0.2  # seconds a decoding row may wait for others' prompts
    cache_bytes: int = 1 << 30  # of prompts kept for later requests
    kv_bytes: int = 1 << 40  # of all keys and values, kept prompts included


class BatchEngine:
    """``launches_ahead``: as an accelerator wants it, see step 4."""

    def __init__(
        self,
        model: Any,
        rules: TokenRules,
        vocabulary_size: int,
        limits: EngineLimits,
        *,
        launches_ahead: bool | None = None,
        invariance: Invariance = "rounding",
    ) -> None:
        self._model = model
        self._invariance = invariance
        self._rules = rules
        self._vocabulary_size = vocabulary_size
        self._batches = limits.rows > 1 and can_merge(model)
        self._pads = can_pad(model)
        self._rows_at_most = limits.rows if self._batches else 1
        self._pace = Pace(limits.chunk, limits.gap)
        self._gap = limits.gap
        self._fresh_since: float | None = None
        self._plain = is_plain(new_cache(model))
        self._reads_to_ends = self._plain and shows_ends(model, vocabulary_size)
        self._prefixes = PrefixCache(min(limits.cache_bytes, limits.kv_bytes), plain=self._plain)
        self._caches = caches_for(self._plain) if self._batches else Alone()
        self.budget = Budget(limits.kv_bytes, measure_cost(model), self._caches, limits.chunk)
        self._keeping = Keeping(self._prefixes, plain=self._plain, batches=self._batches)
        self._batch = Batch(
            lambda tokens, cache: model(tokens, cache=cache), self._caches, self._keeping.ended
        )
        self._waiting = Waiting()
        self._admission = Admission(self.budget, self._batch, self._waiting, self._prefixes, self._keeping)
        self._preemption = Preemption(self._admission, self._batch, self._waiting, self._rows_at_most)
        ahead = has_accelerator() if launches_ahead is None else launches_ahead
        self._decode = self._decode_ahead if ahead else self._decode_in_turn
        self._flights: list[Flight] = []  # to land, the oldest first
        self._rows: dict[str, list[Row]] = {}  # by request: its rows that have not ended
        self._finished: list[Output] = []  # of choices that ended without a token drawn here
        self._steps = 0
        self._read_last = False  # whether the last step read something
        self._tokens = 0  # generated
        self._tokens_read = 0  # of prompts, by the model and not from the prefix cache
        self._cache_bytes = limits.cache_bytes
        self._held_most = 0  # bytes of keys and values since the last rest
        self._figures = Figures()
        self._tally()

    @property
    def active(self) -> int:
        """The last step may be one in which only what has ended is put away."""
        return len(self._rows) + len(self._finished) or int(self._unsettled)

    @property
    def _unsettled(self) -> bool:
        return bool(self._flights) or self._batch.occupied or len(self._waiting) > 0

    @property
    def report(self) -> Report:
        """As of the last step; called on the link's thread."""
        return self._figures.report(time.monotonic())

    def _tally(self) -> None:
        self._figures.update(
            time.monotonic(),
            step=self._steps,
            phase=self._phase,
            invariance=self._invariance,
            rows=len(self._batch),
            prefilling=self._waiting.rows(half_read=True),
            waiting=self._waiting.rows(half_read=False),
            waiting_tokens=self._waiting.tokens,
            tokens=self._tokens,
            tokens_read=self._tokens_read,
            kv_bytes=self._admission.held,
            cache_bytes=self._prefixes.bytes,
            cache_entries=self._prefixes.entries,
            cache_hit_rate=round(self._prefixes.hit_rate, 4),
            active_bytes=mx.get_active_memory(),
            peak_bytes=mx.get_peak_memory(),
        )
        self._kv_use = self._kv_use_now()

    def _kv_use_now(self) -> KvUse:
        held, kept = self._admission.held, self._prefixes.bytes
        self._held_most = max(self._held_most, held + kept)
        jobs = [row.job for rows in self._rows.values() for row in rows if not row.ended]
        committed = sum(self.budget.cost.bytes(len(job.prompt) + job.max_tokens) for job in jobs)
        return KvUse(max(self.budget.size, held), self._held_most, committed, kept)

    @property
    def _phase(self) -> str:
        if not self.active:
            return "idle"
        return "prefill" if self._read_last or not len(self._batch) else "decode"

    def calibrate(self) -> None:
        """Measures what reading costs here; before the first request."""
        read = read_to_ends if self._reads_to_ends else feed
        self._pace.calibrate(
            lambda behind: blank(self._model, behind) if behind else new_cache(self._model),
            lambda cache, tokens: read(self._model, cache, [[0] * tokens]),
            plain=self._plain,
        )

    @property
    def rows_at_most(self) -> int:
        return self._rows_at_most

    @property
    def kv_use(self) -> KvUse:
        return self._kv_use

    def lend(self, size: int) -> None:
        self.budget.size = size
        self._prefixes.budget = min(self._cache_bytes, size)
        self._admission.cap_kept()
        self._tally()

    def add(self, job: Job) -> None:
        """One reading for the choices that begin with the prompt, one for each that goes on behind held ids."""
        rows = [Row(job, choice, self._rules) for choice in range(job.generation.n)]
        self._rows[job.request_id] = rows
        self._finished += [finished for row in rows if (finished := row.replay())]
        if not job.max_tokens and not job.scores_prompt:
            self._finish_unbegun(rows)
        fresh = [row for row in rows if not row.ids and not row.ended]
        readings = [[row] for row in rows if row.ids and not row.ended] + ([fresh] if fresh else [])
        for together in readings:
            ids = [*job.prompt, *together[0].ids]
            for some in self._seatable(together, len(ids)):
                self._waiting.add(Reading(ids, some, self._steps))
        self._forget_ended(job.request_id)
        self._tally()

    def cancel(self, request_id: str) -> None:
        for row in self._rows.pop(request_id, []):
            row.ended = True
        self._tally()

    def rest(self) -> None:
        mx.clear_cache()
        give_back_freed_memory()
        self._held_most = 0
        self._tally()

    def step(self) -> list[Output]:
        self._steps += 1
        outputs = self._preemption.for_memory(self._steps, self._land_all)
        outputs += self._preemption.for_callers(self._steps, self._land_all)
        if not len(self._batch):
            outputs += self._land_all()  # last tokens, which would wait for a pass over somebody's prompt
        read = self._read_last = self._read()
        finished, self._finished = self._finished, []
        outputs += finished
        began = time.perf_counter()
        if not (read and self._holds(began)):
            self._fresh_since = None
            decoding = self._decoding
            landed = self._decode()
            outputs += landed
            if landed and decoding:
                self._pace.decoded(time.perf_counter() - began)
        self._admission.cap_kept()
        self._tally()
        return outputs

    @property
    def _decoding(self) -> int:
        """Rows that a pass over prompts would keep waiting; not those whose first token nobody has seen."""
        return 0 if self._batch.fresh else len(self._batch)

    def _holds(self, now: float) -> bool:
        """Whether the rows should begin together with prompts that wait or came while these were read.

        Prompts are read faster side by side, and rows that begin together end together. Nobody waits for a prompt of
        many chunks.
        """
        if self._decoding or not len(self._batch) or self._long_is_next:
            return False
        self._fresh_since = self._fresh_since or now
        return now - self._fresh_since < HOLD * self._gap

    @property
    def _long_is_next(self) -> bool:
        order = self._order()
        return bool(order) and order[0].left > ABREAST * self._pace.budget(beside_decode=False)

    def _decode_in_turn(self) -> list[Output]:
        """Rows that begin alone land with their first tokens, and have their next pass in the next step."""
        fresh = self._batch.fresh
        outputs = self._land_all()
        if fresh and not self._batch.fresh:
            return outputs
        self._fly(self._batch.launch())
        return outputs + self._land_all()

    def _decode_ahead(self) -> list[Output]:
        """Launches the next pass, then lands those before; in the middle of the launch if the draw has to wait."""
        if self._batch.waits:
            logits = self._batch.start()
            outputs = self._land_all()
            self._fly(None if logits is None else self._batch.draw(logits))
            return outputs
        before, self._flights = self._flights, []
        self._fly(self._batch.launch())
        return self._land(before)

    def _fly(self, flight: Flight | None) -> None:
        if flight:
            self._flights.append(flight)

    def _finish_unbegun(self, rows: list[Row]) -> None:
        """Of choices that want no token."""
        self._finished += [row.finish_unbegun() for row in rows if not row.ended]
        for request_id in {row.job.request_id for row in rows}:
            self._forget_ended(request_id)

    def _seatable(self, rows: list[Row], tokens: int) -> Iterator[list[Row]]:
        """No more rows of so many tokens together than the batch and the memory can ever hold, but one."""
        size = self.budget.rows(tokens, self._rows_at_most)
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    # ------------------------------------------------------------ reading

    def _read(self) -> bool:
        """At most one pass: a chunk of one prompt, or the rest of several. Whether there was one."""
        for dropped in self._waiting.drop_ended():
            self._keeping.half_read(dropped)
        self._batch.drop_done()  # what they hold is not counted below
        seats = self._rows_at_most - len(self._batch)
        order = self._fitting(self._order(), seats)
        if not order or self._waits_for_more(order):
            return False
        first = order[0]
        self._keeping.look_up(first)
        self._waiting.lead(first)
        budget = self._chunk_behind(first.done)
        if first.stop - first.done > budget or first.stops or (first.scores and first.left):
            self._caches.resize()
            self._read_on(first, min(budget, first.stop - first.done))
        else:
            together = self._together(order, seats)
            self._caches.resize()
            self._read_out(together)
        return True

    def _order(self) -> list[Reading]:
        return self._waiting.in_order(self._steps, self._batch.askers)

    def _chunk_behind(self, tokens: int) -> int:
        """Most tokens that a pass may read which looks back at so many."""
        return self._pace.budget(beside_decode=self._decoding > 0, behind=tokens)

    def _fitting(self, order: list[Reading], seats: int) -> list[Reading]:
        """From the first that fits on; see rule 4 of ``prefill``."""
        if not seats:
            return []
        refused: Reading | None = None
        for place, reading in enumerate(order):
            if refused is None or reading.may_fit_before(refused):
                if len(reading.rows) <= seats and self._admission.admits(reading):
                    return order[place:]
                refused = reading
            if self._steps - reading.since >= PASSED:
                return []
        return []

    def _waits_for_more(self, order: list[Reading]) -> bool:
        if any(reading.done for reading in order):
            return False
        oldest = self._steps - min(reading.since for reading in order)
        return self._pace.waits_for_more(self._decoding, len(order), oldest)

    def _together(self, order: list[Reading], seats: int) -> list[Reading]:
        """The readings whose rest fits into one pass, padded to one width. What refuses most costs least."""

        def rest(reading: Reading) -> int:
            return reading.left + (1 if self._reads_to_ends else 0)

        chosen, rows, width = [order[0]], len(order[0].rows), rest(order[0])
        refused: Reading | None = None

        def full(width: int, behind: int) -> bool:
            most = self._chunk_behind(behind) * (1 if self._decoding else ABREAST)
            return width * (len(chosen) + 1) > most

        def in_pass(reading: Reading) -> bool:
            behind = max(reading.done, *(each.done for each in chosen))
            return not full(max(width, rest(reading)), behind) and (self._pads or rest(reading) == width)

        for reading in order[1:] if self._batches else ():
            if rows == seats or full(width, behind=0):
                break
            # One before it in this loop may block it.
            if (
                reading.blocked
                or rows + len(reading.rows) > seats
                or (reading.looked_up and not in_pass(reading))
            ):
                continue
            if refused and not reading.may_fit_before(refused):
                continue
            if not self._admission.admits(reading, chosen):
                refused = reading
                continue
            self._keeping.look_up(reading)
            if not in_pass(reading) or not self._admission.admits(reading, chosen):
                continue
            self._waiting.lead(reading)
            if reading.stops or (reading.scores and reading.left):
                continue
            chosen.append(reading)
            rows, width = rows + len(reading.rows), max(width, rest(reading))
        return chosen

    def _read_on(self, reading: Reading, size: int) -> None:
        """A chunk of one prompt."""
        cache = reading.cache if reading.cache is not None else new_cache(self._model)
        stop, stops = reading.stop, reading.stops
        with self._pace.timing(size, reading.done):
            self._feed(reading, cache, reading.ids[reading.done : reading.done + size])
        reading.advance(cache, size)
        self._tokens_read += size
        if stops and reading.done == stop:
            self._keeping.half_read(reading)
        if reading.done == reading.pause:
            reading.pause = None

    def _feed(self, reading: Reading, cache: Cache, tokens: list[int]) -> None:
        if not reading.scores:
            feed_one(self._model, cache, tokens)
            return
        following = reading.ids[reading.done + 1 : reading.done + 1 + len(tokens)]
        depth = reading.rows[0].job.generation.logprobs or 0
        self._score(reading.rows, score_one(self._model, cache, tokens, following, depth))

    def _score(self, rows: list[Row], scores: list[LogprobsOf]) -> None:
        """Rows of one prompt share the entries: there may be a hundred thousand."""
        rows[0].score_prompt(scores)
        for row in rows[1:]:
            row.prompt_logprobs = rows[0].prompt_logprobs

    def _read_out(self, readings: list[Reading]) -> None:
        """The rest of these prompts; their rows join the batch."""
        read = self._read_rest(readings)
        for reading in readings:
            reading.done = len(reading.read)
        self._waiting.remove(readings)
        for reading in readings:
            if reading.scores:
                self._score(reading.rows, [])  # a prompt of one token had nothing to score
        self._finish_unbegun([row for reading in readings for row in reading.rows if not row.job.max_tokens])
        self._seat(readings, *read)

    def _read_rest(self, readings: list[Reading]) -> tuple[Cache, list[Place], mx.array | None]:
        """A cache with one row for each reading, where each is, and the logits (rows, vocabulary) behind their ends.

        Who is read alone is copied into no batch. None of the last ids is read where that would need a pass of its own.
        """
        caches = [r.cache if r.cache is not None else new_cache(self._model) for r in readings]
        to_ends = self._reads_to_ends and any(reading.left for reading in readings)
        rest = [reading.ids[reading.done : None if to_ends else -1] for reading in readings]
        tokens = max(map(len, rest)) * len(rest)  # padding included
        self._tokens_read += sum(map(len, rest))
        where = places([reading.done for reading in readings], [len(ids) for ids in rest], plain=self._plain)
        alone = len(readings) == 1 and (self._plain or not self._batches)
        cache = caches[0] if alone else merge(caches)
        logits = None
        if tokens:
            with self._pace.timing(tokens, max(reading.done for reading in readings)):
                if to_ends:
                    logits = read_to_ends(self._model, cache, rest)
                else:
                    feed(self._model, cache, rest)
        for reading, ids, place in zip(readings, rest, where, strict=True):
            self._keeping.read_out(reading, cache, place, len(ids))
        return cache, where, logits

    def _seat(
        self, readings: list[Reading], cache: Cache, where: list[Place], logits: mx.array | None
    ) -> None:
        rows = [(i, row) for i, reading in enumerate(readings) for row in reading.rows if not row.ended]
        if not rows:
            return
        seats = [Seat(row, self._parameters(row), len(row.ids), readings[i].ids[-1]) for i, row in rows]
        if logits is not None:
            logits = logits[mx.array([i for i, _ in rows])]
        self._fly(self._batch.join(seats, cache, [where[i] for i, _ in rows], logits))

    def _parameters(self, row: Row) -> RowParameters:
        generation = row.job.generation
        return RowParameters(
            sampling=generation.sampling,
            choice=row.choice,
            logprobs=generation.logprobs,
            adjustment=adjustment_for(generation, row.job.prompt, row.ids, row.ending, self._vocabulary_size),
        )

    # ------------------------------------------------------------ landing

    def _land_all(self) -> list[Output]:
        """With nothing launched behind them."""
        flights, self._flights = self._flights, []
        return self._land(flights)

    def _land(self, flights: list[Flight]) -> list[Output]:
        outputs = []
        for flight in flights:
            for row, id, logprobs in flight.land():
                outputs.append(row.push(id, logprobs))
                if row.ended:
                    self._forget_ended(row.job.request_id)
        self._tokens += len(outputs)
        self._figures.count(len(outputs), time.monotonic())
        return outputs

    def _forget_ended(self, request_id: str) -> None:
        left = [row for row in self._rows.get(request_id, []) if not row.ended]
        if left:
            self._rows[request_id] = left
        else:
            self._rows.pop(request_id, None)
