"""The engine: every request of a model in one batch, served step by step.

One step:
1. The scheduler is shown what waits and runs, and plans the step: see ``scheduler``.
2. The plan is carried out: sequences and cached prefixes give way, a prefill pass runs, prefilled prompts join the
   batch as one sequence per choice, and a forward pass draws the next token of every sequence. In which order passes
   are launched and waited for: see ``pass_order``.
3. Tokens that were drawn become text, log-probabilities and finishes.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

from workers.device import has_accelerator
from workers.engine.batch import Batch, PendingStep
from workers.engine.cpu.install import give_back_freed_memory
from workers.engine.disk.tier import Disk, NoDisk
from workers.engine.engine_limits import EngineLimits
from workers.engine.figures import Figures, Report
from workers.engine.findings import EngineFindings, shows_last_logits
from workers.engine.forward import forward
from workers.engine.kv.decode_caches import Alone, caches_of
from workers.engine.kv.mlx_caches import can_pad
from workers.engine.memory.budget import Budget
from workers.engine.memory.device_memory import DeviceMemory
from workers.engine.memory.measured_cost import measure_cost
from workers.engine.pass_order import Ahead, InTurn, Passes
from workers.engine.pending_passes import PendingPasses
from workers.engine.prefill import PrefillQueue
from workers.engine.prefill_pass import PrefillPasses
from workers.engine.prefix_reuse import PrefixReuse
from workers.engine.prefixes.prefix_cache import PrefixCache
from workers.engine.scheduling import scheduler
from workers.engine.scheduling.pass_costs import PassCosts
from workers.engine.scheduling.pass_history import PassHistory
from workers.engine.scheduling.plan import Memory, Plan, View
from workers.engine.speculation.draft_model import DraftModel
from workers.engine.speculation.speculator import Speculator, bytes_of, report_of, speculator_for
from workers.job import Forgotten, Job, KvUse, Output
from workers.sequence import TokenRules, TokenSequence


class BatchEngine:
    """``launches_ahead``: collect a pass while the next one runs, as an accelerator wants it.

    ``pending``: what waits for passes and tells the time, if not the device and its clock.
    """

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
        pending: PendingPasses | None = None,
    ) -> None:
        findings = findings or EngineFindings(last_logits=shows_last_logits(model, vocabulary_size))
        ahead = has_accelerator() if launches_ahead is None else launches_ahead
        self._caches = caches_of(model, limits.rows, findings.alone)
        batches = not isinstance(self._caches, Alone)
        self._rules = rules
        self._invariance = findings.invariance
        self._limits = limits.of_plans(
            batches=batches, pads=can_pad(model), last_logits=findings.last_logits, ahead=ahead
        )
        costs = PassCosts(limits.max_stall, findings.costs)
        self._history = PassHistory(costs)
        cost = measure_cost(model, draft and draft.model)
        self.budget = Budget(limits.kv_bytes, cost, self._caches, limits.chunk)
        self._cache_bytes = limits.cache_bytes
        size = min(limits.cache_bytes, limits.kv_bytes)
        self._prefixes = PrefixCache(size)
        self._disk = disk or NoDisk()
        self._reuse = PrefixReuse(self._prefixes, self._disk, batches=batches)
        self._waiting = PrefillQueue()
        self._pending = PendingPasses() if pending is None else pending
        self._prefills = PrefillPasses(
            *(model, vocabulary_size, self._waiting, self._reuse, self._caches, costs),
            last_logits=findings.last_logits,
            land=self._pending.land_all if ahead else None,
        )
        self._batch = Batch(partial(forward, model), self._caches, self._reuse.ended)
        may = limits.speculation, findings.invariance, self._caches.takes_back
        self._speculator = speculator_for(*may, lambda: costs.now, draft, speculator)
        made = self._batch, self._prefills, self._pending, self._history, self._speculator
        self._passes = Passes(*made, push=self._push, finish=self._finish_unbegun)
        self._order = Ahead(self._passes) if ahead else InTurn(self._passes)
        self._sequences: dict[str, list[TokenSequence]] = {}  # by request: its sequences that have not ended
        self._finished: list[Output] = []  # of choices that ended without a token drawn here
        self._steps = 0
        self._tokens = 0  # generated
        self._held_most = 0  # bytes of keys and values since the last rest
        self._figures = Figures()
        self._device_memory = DeviceMemory(weights=mx.get_active_memory())
        self._device_memory.lend(limits.kv_bytes)
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
            tokens_read=self._passes.tokens_read,
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
        return "prefill" if self._order.prefilled or not len(self._batch) else "decode"

    @property
    def speculates(self) -> bool:
        return self._speculator is not None

    @property
    def most_sequences(self) -> int:
        return self._limits.rows

    @property
    def kv_use(self) -> KvUse:
        return self._kv_use

    def lend(self, size: int) -> None:
        self.budget.size = size
        self._prefixes.budget = min(self._cache_bytes, size)
        self._cap_prefix_cache()
        self._tally()
        self._device_memory.lend(self._kv_use.obeyed)

    def add(self, job: Job) -> None:
        """One prefill task for all choices without held ids, one more for each choice with them."""
        forgets = self._reuse.forgets
        sequences = [TokenSequence(job, choice, self._rules, forgets) for choice in range(job.generation.n)]
        self._sequences[job.request_id] = sequences
        self._finished += [finished for sequence in sequences if (finished := sequence.replay())]
        if not job.max_tokens and not job.scores_prompt:
            self._finished += self._finish_unbegun(sequences)
        fresh = [sequence for sequence in sequences if not sequence.ids and not sequence.ended]
        resumed = [[sequence] for sequence in sequences if sequence.ids and not sequence.ended]
        for together in [*resumed, fresh] if fresh else resumed:
            ids = [*job.prompt, *together[0].ids]
            for some in self.budget.fitting_groups(together, len(ids), self._limits.rows):
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
        outputs = [] if len(self._batch) else self._passes.collect()
        if self._disk.arriving:
            free, idle = self.budget.size - self._held, not self._unsettled
            self._reuse.take_arrivals(self._waiting, free, self._history.costs.seconds, idle=idle)
        plan = self._plan()
        if plan.preempt and self._pending:  # tokens on their way may end the sequences that should leave
            outputs += self._passes.collect()
            plan = self._plan()
        self._make_room(plan)
        outputs, self._finished = outputs + self._finished, []
        outputs += self._order.run(plan)
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
            costs=self._history.costs.now,
            limits=self._limits,
            fresh_since=self._order.fresh_since,
            used=self._history.used(now),
            passes=self._history.passes,
            read=self._history.read,
            read_for=self._history.read_for,
            decoded=self._order.decoded,
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

    def _cap_prefix_cache(self) -> None:
        """The prefix cache may have what sequences and tasks leave."""
        self._prefixes.shrink(max(0, self.budget.size - self._held))

    def _finish_unbegun(self, sequences: list[TokenSequence]) -> list[Output]:
        """Finishes choices that want no token."""
        outputs = [sequence.finish_unbegun() for sequence in sequences if not sequence.ended]
        for request_id in {sequence.job.request_id for sequence in sequences}:
            self._forget_ended(request_id)
        return outputs

    def _push(self, steps: list[PendingStep]) -> list[Output]:
        """Gives the sequences the tokens of these steps, which have ended."""
        outputs = []
        for step in steps:
            for sequence, id, logprobs in step.collect():
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
