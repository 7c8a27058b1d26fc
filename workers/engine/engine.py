"""The engine: every request of a model in one batch, served step by step.

One step:
1. The scheduler is shown what waits and runs, and plans the step: see ``scheduler``.
2. The plan is carried out: sequences and cached prefixes give way, a prefill pass runs, prefilled prompts join the
   batch as one sequence per choice, and a forward pass draws the next token of every sequence.
3. Tokens that were drawn become text, log-probabilities and finishes. An accelerator collects the pass before, while
   the next one runs. On a CPU MLX lets the host run at most a hundred operations ahead, so each pass is collected at
   once.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from workers.device import has_accelerator
from workers.engine.batch import Batch, BatchSlot, PendingStep, parameters_of
from workers.engine.cpu.install import give_back_freed_memory
from workers.engine.disk.tier import Disk, NoDisk
from workers.engine.engine_limits import EngineLimits
from workers.engine.figures import Figures, Report
from workers.engine.findings import EngineFindings, shows_last_logits
from workers.engine.forward import feed, feed_to_ends, forward
from workers.engine.kv.budget import Budget
from workers.engine.kv.decode_caches import Alone, caches_of
from workers.engine.kv.measured_cost import measure_cost
from workers.engine.kv.mlx_caches import (
    Cache,
    TokenSpan,
    can_pad,
    is_full_attention,
    merge,
    new_cache,
    spans,
)
from workers.engine.kv.prefix_cache import PrefixCache
from workers.engine.prefill import PrefillQueue, PrefillTask
from workers.engine.prefix_reuse import PrefixReuse
from workers.engine.sampling.logprobs import score_prompt_tokens
from workers.engine.scheduling import scheduler
from workers.engine.scheduling.caller_use import CallerUse
from workers.engine.scheduling.fairness import LEVELS, RANKS
from workers.engine.scheduling.pass_costs import PassCosts
from workers.engine.scheduling.plan import Chunk, Limits, Memory, Plan, View
from workers.engine.speculation.draft_model import DraftModel
from workers.engine.speculation.speculator import Speculator, bytes_of, report_of, speculator_for
from workers.job import Forgotten, Job, KvUse, Output
from workers.sequence import TokenLogprobs, TokenRules, TokenSequence


class BatchEngine:
    """``launches_ahead``: collect a pass while the next one runs, as an accelerator wants it."""

    def __init__(
        self,
        model: Any,
        rules: TokenRules,
        vocabulary_size: int,
        limits: EngineLimits,
        *,
        launches_ahead: bool | None = None,
        findings: EngineFindings | None = None,
        speculator: Speculator | None = None,
        disk: Disk | None = None,
        draft: DraftModel | None = None,
    ) -> None:
        self._model = model
        findings = findings or EngineFindings(last_logits=shows_last_logits(model, vocabulary_size))
        self._invariance = findings.invariance
        self._rules = rules
        self._vocabulary_size = vocabulary_size
        self._caches = caches_of(model, limits.rows, findings.alone)
        self._batches = not isinstance(self._caches, Alone)
        self._most_sequences = limits.rows if self._batches else 1
        self._pass_costs = PassCosts(limits.max_stall, findings.costs)
        self._fresh_since: float | None = None
        self._caller_use = CallerUse()
        self._passes = 0  # of prefill
        self._read, self._read_for, self._decoded = 0.0, LEVELS[0], 0.0  # see View
        self._full_attention = is_full_attention(new_cache(model))
        self._gives_last_logits = findings.last_logits
        self._prefixes = PrefixCache(
            min(limits.cache_bytes, limits.kv_bytes), full_attention=self._full_attention
        )
        cost = measure_cost(model, draft and draft.model)
        self.budget = Budget(limits.kv_bytes, cost, self._caches, limits.chunk)
        self._disk = disk or NoDisk()
        self._reuse = PrefixReuse(
            self._prefixes, self._disk, full_attention=self._full_attention, batches=self._batches
        )
        self._batch = Batch(partial(forward, model), self._caches, self._reuse.ended)
        may = limits.speculation, findings.invariance, self._caches.takes_back
        self._speculator = speculator_for(*may, lambda: self._pass_costs.now, draft, speculator)
        self._waiting = PrefillQueue()
        ahead = has_accelerator() if launches_ahead is None else launches_ahead
        self._limits = Limits(
            rows=self._most_sequences,
            chunk=limits.chunk,
            max_stall=limits.max_stall,
            batches=self._batches,
            pads=can_pad(model),
            last_logits=self._gives_last_logits,
            holds=not ahead,
        )
        self._decode = self._decode_ahead if ahead else self._decode_in_turn
        self._pending: list[PendingStep] = []  # to collect, the oldest first
        self._sequences: dict[str, list[TokenSequence]] = {}  # by request: its sequences that have not ended
        self._finished: list[Output] = []  # of choices that ended without a token drawn here
        self._steps = 0
        self._prefilled_last = False  # whether the last step had a prefill pass
        self._tokens = 0  # generated
        self._tokens_read = 0  # of prompts, by the model and not from the prefix cache
        self._cache_bytes = limits.cache_bytes
        self._held_most = 0  # bytes of keys and values since the last rest
        self._figures = Figures()
        self._tally()

    @property
    def active(self) -> int:
        """Counts a step as well that only puts ended sequences away."""
        return len(self._sequences) + len(self._finished) or int(self._unsettled)

    @property
    def _unsettled(self) -> bool:
        return bool(self._pending) or self._batch.occupied or len(self._waiting) > 0

    @property
    def report(self) -> Report:
        """The state after the last step; called on the link's thread."""
        return self._figures.report(time.monotonic())

    def _tally(self) -> None:
        self._figures.update(
            time.monotonic(),
            step=self._steps,
            phase=self._phase,
            invariance=self._invariance,
            rows=len(self._batch),
            prefilling=self._waiting.sequences(half_prefilled=True),
            waiting=self._waiting.sequences(half_prefilled=False) + self._disk.arriving,
            waited=round(self._waiting.waited(time.monotonic()), 1),
            waiting_tokens=self._waiting.tokens,
            tokens=self._tokens,
            tokens_read=self._tokens_read,
            kv_bytes=self._held,
            cache_bytes=self._prefixes.bytes,
            cache_entries=self._prefixes.entries,
            cache_hit_rate=round(self._prefixes.hit_rate, 4),
            active_bytes=mx.get_active_memory(),
            peak_bytes=mx.get_peak_memory(),
            **report_of(self._speculator),
            **self._disk.report(),
        )
        self._kv_use = self._kv_use_now()

    def _kv_use_now(self) -> KvUse:
        held, kept = self._held, self._prefixes.bytes
        self._held_most = max(self._held_most, held + kept)
        jobs = [each.job for group in self._sequences.values() for each in group if not each.ended]
        committed = sum(self.budget.cost.bytes(len(job.prompt) + job.max_tokens) for job in jobs)
        return KvUse(max(self.budget.size, held), self._held_most, committed, kept)

    @property
    def _held(self) -> int:
        """Bytes of the decoding sequences, headroom included, of the partly prefilled tasks, and of what is read."""
        return self._batch.nbytes + bytes_of(self._speculator) + self._waiting.bytes + self._disk.nbytes

    @property
    def _phase(self) -> str:
        if not self.active:
            return "idle"
        return "prefill" if self._prefilled_last or not len(self._batch) else "decode"

    @property
    def speculates(self) -> bool:
        return self._speculator is not None

    @property
    def most_sequences(self) -> int:
        return self._most_sequences

    @property
    def kv_use(self) -> KvUse:
        return self._kv_use

    def lend(self, size: int) -> None:
        self.budget.size = size
        self._prefixes.budget = min(self._cache_bytes, size)
        self._cap_prefix_cache()
        self._tally()

    def add(self, job: Job) -> None:
        """One prefill task for all choices without held ids, one more for each choice with them."""
        forgets = self._reuse.forgets
        sequences = [TokenSequence(job, choice, self._rules, forgets) for choice in range(job.generation.n)]
        self._sequences[job.request_id] = sequences
        self._finished += [finished for sequence in sequences if (finished := sequence.replay())]
        if not job.max_tokens and not job.scores_prompt:
            self._finish_unbegun(sequences)
        fresh = [sequence for sequence in sequences if not sequence.ids and not sequence.ended]
        resumed = [[sequence] for sequence in sequences if sequence.ids and not sequence.ended]
        for together in [*resumed, fresh] if fresh else resumed:
            ids = [*job.prompt, *together[0].ids]
            for some in self.budget.fitting_groups(together, len(ids), self._most_sequences):
                self._reuse.queue(self._waiting, ids, list(some), self._steps)
        self._forget_ended(job.request_id)
        self._tally()

    def cancel(self, request_id: str) -> None:
        for sequence in self._sequences.pop(request_id, []):
            sequence.ended = True
        self._tally()

    def forget(self, namespace: str | None, done: Callable[[Forgotten], None]) -> None:
        self._reuse.forget(namespace, done)
        self.rest()

    def rest(self) -> None:
        mx.clear_cache()
        give_back_freed_memory()
        self._held_most = 0
        self._tally()

    # ------------------------------------------------------------ a step

    def step(self) -> list[Output]:
        self._steps += 1
        # Without sequences that decode, the last tokens would wait for a prefill pass.
        outputs = [] if len(self._batch) else self._collect_all()
        if self._disk.arriving:
            free, idle = self.budget.size - self._held, not self._unsettled
            self._reuse.take_arrivals(self._waiting, free, self._pass_costs.seconds, idle=idle)
        plan = self._plan()
        if plan.preempt and self._pending:  # tokens on their way may end the sequences that should leave
            outputs += self._collect_all()
            plan = self._plan()
        self._make_room(plan)
        self._prefilled_last = self._prefill(plan)
        outputs, self._finished = outputs + self._finished, []
        if plan.pause and self._prefilled_last:
            outputs += self._collect_all()
        else:
            outputs += self._hold() if plan.hold else self._decode_timed()
        self._cap_prefix_cache()
        self._tally()
        return outputs

    def _plan(self) -> Plan:
        """After those that have ended have given their memory back; the prefix cache stores what they leave."""
        for dropped in self._waiting.drop_ended():
            self._reuse.half_prefilled(dropped)
        self._batch.drop_done()
        now = time.perf_counter()
        return scheduler.plan(self._view(now), now)

    def _view(self, now: float) -> View:
        self._waiting.look_up(self._prefixes.matched, self._prefixes.changes)
        return View(
            step=self._steps,
            waiting=self._waiting.shown(),
            running=self._batch.shown(),
            memory=Memory(
                cost=self.budget.cost,
                size=self.budget.size,
                footprint=self._caches.footprint(),
                cache_bytes=self._prefixes.bytes,
                chunk=self.budget.chunk,
            ),
            costs=self._pass_costs.now,
            limits=self._limits,
            fresh_since=self._fresh_since,
            used=self._caller_use.shown(now),
            passes=self._passes,
            read=self._read,
            read_for=self._read_for,
            decoded=self._decoded,
        )

    def _make_room(self, plan: Plan) -> None:
        """What gives way: sequences to the queue, partly prefilled prompts and the rest of the prefix cache."""
        for sequence in self._batch.preempt(plan.preempt) if plan.preempt else ():
            self._waiting.add([*sequence.job.prompt, *sequence.ids], [sequence], self._steps)
        for task in self._waiting.find(plan.restart):
            self._reuse.half_prefilled(task)
            task.restart()
        self._caches.compact = plan.compact
        if plan.cache_bytes is not None:
            for task in self._waiting.find(chunk.task for chunk in plan.prefill):
                self._prefixes.touch(task.namespace, task.read)  # what the plan reads is evicted last
            self._prefixes.shrink(plan.cache_bytes)

    def _hold(self) -> list[Output]:
        """First tokens wait."""
        self._fresh_since = self._fresh_since or time.perf_counter()
        return []

    def _decode_timed(self) -> list[Output]:
        self._fresh_since = None
        decoding, rows, began = not self._batch.fresh, len(self._batch), time.perf_counter()
        outputs = self._decode()
        if outputs and decoding:
            seconds = time.perf_counter() - began
            self._pass_costs.decoded(seconds)
            self._decoded += seconds
            if self._speculator:
                self._speculator.decoded(rows, seconds)
            self._caller_use.charge([row.asker.caller for row in self._batch.shown()], seconds)
        return outputs

    def _cap_prefix_cache(self) -> None:
        """The prefix cache may have what sequences and tasks leave."""
        self._prefixes.shrink(max(0, self.budget.size - self._held))

    def _decode_in_turn(self) -> list[Output]:
        """A batch without an emitted token emits the first ones; its next pass is in the next step."""
        fresh = self._batch.fresh
        outputs = self._collect_all()
        if fresh and not self._batch.fresh:
            return outputs
        if self._speculator and (verified := self._speculator.verify(self._batch, self._collect)):
            return outputs + verified
        self._add_pending(self._batch.launch())
        return outputs + self._collect_all()

    def _decode_ahead(self) -> list[Output]:
        """Launches the next pass, then collects those before; between start and draw if the draw needs their tokens."""
        if self._speculator and self._speculator.expects(self._batch.sequences):
            outputs = self._collect_all()  # guesses are made and verified behind the last token
            if verified := self._speculator.verify(self._batch, self._collect):
                return outputs + verified
            self._add_pending(self._batch.launch())
            return outputs
        if self._batch.waits:
            logits = self._batch.start()
            outputs = self._collect_all()
            self._add_pending(None if logits is None else self._batch.draw(logits))
            return outputs
        before, self._pending = self._pending, []
        self._add_pending(self._batch.launch())
        return self._collect(before)

    def _add_pending(self, pending: PendingStep | None) -> None:
        if pending:
            self._pending.append(pending)

    def _finish_unbegun(self, sequences: list[TokenSequence]) -> None:
        """Finishes choices that want no token."""
        self._finished += [sequence.finish_unbegun() for sequence in sequences if not sequence.ended]
        for request_id in {sequence.job.request_id for sequence in sequences}:
            self._forget_ended(request_id)

    # ------------------------------------------------------------ prefill

    def _prefill(self, plan: Plan) -> bool:
        """Runs the pass of the plan, if there is one. Gives whether it ran."""
        tasks = self._waiting.find(chunk.task for chunk in plan.prefill)
        for task in tasks:
            self._reuse.match(task)
        # A prefix that was evicted for this plan is missing: the task has another turn.
        ready = [
            (task, chunk) for task, chunk in zip(tasks, plan.prefill, strict=True) if task.done == chunk.start
        ]
        for task, chunk in ready:
            self._lead(task, chunk)
        if not ready:
            return False
        self._caches.resize()
        stalls, began = not self._batch.fresh, time.perf_counter()
        if plan.prefill[0].joins:
            self._finish_prefill([task for task, _ in ready])
        else:
            [(task, chunk)] = ready
            self._prefill_chunk(task, chunk.end - chunk.start)
        seconds = time.perf_counter() - began
        self._passes += 1
        self._read, self._decoded = seconds if stalls else 0.0, 0.0
        self._read_for = min((task.shown.priority for task, _ in ready), key=RANKS.__getitem__)
        self._caller_use.charge([task.shown.asker.caller for task, _ in ready], seconds)
        return True

    def _lead(self, task: PrefillTask, chunk: Chunk) -> None:
        """The followers wait until the task has come to its pause."""
        if chunk.pause is not None:
            task.now(pause=chunk.pause)
            for follower in self._waiting.find(chunk.followers):
                follower.now(leader=task.id)

    def _prefill_chunk(self, task: PrefillTask, size: int) -> None:
        """Prefills a chunk of one prompt."""
        cache = task.cache if task.cache is not None else new_cache(self._model)
        stop, stops = task.shown.stop, task.shown.stops
        with self._pass_costs.timing(size, task.done):
            self._feed(task, cache, task.ids[task.done : task.done + size])
        task.advance(cache, size)
        self._reuse.advanced(task, size)
        self._tokens_read += size
        if (stops and task.done == stop) or self._reuse.wants_checkpoint(task):
            self._reuse.half_prefilled(task)

    def _feed(self, task: PrefillTask, cache: Cache, tokens: list[int]) -> None:
        if not task.scores:
            feed(self._model, cache, [tokens])
            return
        following = task.ids[task.done + 1 : task.done + 1 + len(tokens)]
        depth = task.sequences[0].job.generation.logprobs or 0
        self._score(task.sequences, score_prompt_tokens(self._model, cache, tokens, following, depth))

    def _score(self, sequences: list[TokenSequence], scores: list[TokenLogprobs]) -> None:
        """The sequences of one prompt share the entries, which may be a hundred thousand."""
        sequences[0].score_prompt(scores)
        for sequence in sequences[1:]:
            sequence.prompt_logprobs = sequences[0].prompt_logprobs

    def _finish_prefill(self, tasks: list[PrefillTask]) -> None:
        """Prefills the rest of these prompts; their sequences join the batch."""
        read = self._prefill_rest(tasks)
        self._waiting.remove(tasks)
        for task in tasks:
            if task.scores:
                self._score(task.sequences, [])  # a prompt of one token had nothing to score
        self._finish_unbegun(
            [sequence for task in tasks for sequence in task.sequences if not sequence.job.max_tokens]
        )
        self._fill_slots(tasks, *read)

    def _prefill_rest(self, tasks: list[PrefillTask]) -> tuple[Cache, list[TokenSpan], mx.array | None]:
        """A cache of all tasks, the span of each in it, and the last logits (tasks, vocabulary).

        A task alone is not copied into a batch cache. The last ids are left out, and so the logits, where they would
        need a pass of their own.
        """
        caches = [r.cache if r.cache is not None else new_cache(self._model) for r in tasks]
        to_ends = self._gives_last_logits and any(task.left for task in tasks)
        rest = [task.ids[task.done : None if to_ends else -1] for task in tasks]
        tokens = max(map(len, rest)) * len(rest)  # padding included
        self._tokens_read += sum(map(len, rest))
        where = spans(
            [task.done for task in tasks], [len(ids) for ids in rest], full_attention=self._full_attention
        )
        cache = caches[0] if len(tasks) == 1 and self._caches.joins_alone else merge(caches)
        logits = None
        if tokens:
            with self._pass_costs.timing(tokens, max(task.done for task in tasks)):
                if to_ends:
                    logits = feed_to_ends(self._model, cache, rest)
                else:
                    feed(self._model, cache, rest)
        for task, ids, span in zip(tasks, rest, where, strict=True):
            self._reuse.prefilled(task, cache, span, len(ids))
        return cache, where, logits

    def _fill_slots(
        self, tasks: list[PrefillTask], cache: Cache, where: list[TokenSpan], logits: mx.array | None
    ) -> None:
        sequences = [
            (i, sequence) for i, task in enumerate(tasks) for sequence in task.sequences if not sequence.ended
        ]
        if not sequences:
            return
        slots = [
            BatchSlot(
                sequence, parameters_of(sequence, self._vocabulary_size), len(sequence.ids), tasks[i].ids[-1]
            )
            for i, sequence in sequences
        ]
        if logits is not None:
            logits = logits[mx.array([i for i, _ in sequences])]
        self._add_pending(self._batch.join(slots, cache, [where[i] for i, _ in sequences], logits))

    # ------------------------------------------------------------ collect

    def _collect_all(self) -> list[Output]:
        """Collects every pending step."""
        pending_steps, self._pending = self._pending, []
        return self._collect(pending_steps)

    def _collect(self, pending_steps: list[PendingStep]) -> list[Output]:
        outputs = []
        for pending in pending_steps:
            for sequence, id, logprobs in pending.collect():
                outputs.append(sequence.push(id, logprobs))
                if sequence.ended:
                    self._forget_ended(sequence.job.request_id)
        self._tokens += len(outputs)
        self._figures.count(len(outputs), time.monotonic())
        return outputs

    def _forget_ended(self, request_id: str) -> None:
        left = [sequence for sequence in self._sequences.get(request_id, []) if not sequence.ended]
        if left:
            self._sequences[request_id] = left
        else:
            self._sequences.pop(request_id, None)
