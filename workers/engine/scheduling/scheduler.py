"""What the engine does in its next step: a view in, a plan out. Pure: no arrays, no clock, no effects.

Rule 1, memory: the youngest sequences are preempted until the others can have their next pass.
Rule 2, callers: the caller with fewer sequences is next, weighed by its priority. For one that has waited ``YIELD``
steps without any, the youngest sequences of the caller with most are preempted.
Rule 3, order: of a caller the prompt with fewest tokens left, but now and then the oldest of all: see ``order``.
Rule 4, passing: a task that does not fit, for want of batch slots or memory, is passed by tasks that do. After
``PASSED`` steps at the head of the order it is passed no more: sequences end until it fits. Where none decodes the
oldest prompt takes the room of those that are partly prefilled: see ``ledger``.
Rule 5, stall: a prefill pass beside sequences that decode has as many tokens as ``max_stall`` allows. Then they decode
once at the least, and for a while, so that prefill has no more than ``read_share`` of the time. Where passes run in
turn the step ends with the prefill pass: its first tokens go out, and what has come meanwhile is in the next plan.
Rule 6, passes: short prompts share a pass; a long one has passes of its own, in chunks. A full batch waits a few steps
for more prompts. On an accelerator prompts behind contexts of unlike length share a pass of few tokens only.
Rule 7, priority: a prompt of higher priority than sequences that decode is urgent. It waits for no company, none of
lower priority joins its pass, and the pass may be ``URGENT`` times as long. If the last prefill pass was for a lower
one it does not wait until sequences have decoded (rule 5). So sequences pause for one prefill pass of each priority at
the most, each higher than the one before.
Rule 8, prefixes: a prefix that several waiting prompts share is prefilled once: see ``shared_prefixes``.
Rule 9, hold: while no client has a token, first tokens wait for prompts to be prefilled beside theirs. Prompts are
prefilled faster in one pass, and sequences that begin together end together.
"""

from collections.abc import Sequence
from dataclasses import replace

from workers.engine.scheduling.fairness import RANKS, level
from workers.engine.scheduling.ledger import Ledger, Room
from workers.engine.scheduling.order import Order, in_order
from workers.engine.scheduling.plan import Chunk, Plan, Row, Task, View
from workers.engine.scheduling.shared_prefixes import Prefixes

PASSED = 100  # steps for which a task may be overtaken
YIELD = 16  # steps that a caller without a sequence waits for one to end
PATIENCE = 3  # steps that a prompt may wait for others to share its pass
COMPANY = (
    8  # a batch ends about one in so many sequences in a few steps; waiting for as many prompts is worth it
)
DECODES = 8  # decode passes between two prefill passes, at the most
URGENT = 2  # times as long may a pass over urgent prompts stall what decodes
HOLD = 15  # times ``max_stall`` that first tokens are held
# Chunks in a pass over several prompts that stalls no sequence: attention does not cost more for them. A longer prompt
# holds no sequences.
PROMPTS_AT_ONCE = 3


def plan(view: View, now: float, order: Order = in_order) -> Plan:
    """``order`` as ``in_order``, which others can be compared with."""
    planner = _Planner(view, order)
    ledger = planner.ledger
    ledger.let_rows_grow()
    planner.let_callers_in()
    chunks = planner.prefill()
    room = ledger.room
    return Plan(
        preempt=tuple(ledger.preempted),
        restart=room.restart,
        compact=room.compact,
        cache_bytes=room.cache_bytes if room.cache_bytes < view.memory.cache_bytes else None,
        prefill=chunks,
        hold=bool(chunks) and planner.holds(now),
        pause=bool(chunks) and planner.pauses(),
    )


class _Planner:
    """A plan in the making."""

    def __init__(self, view: View, order: Order) -> None:
        self._view = view
        self._in_order = order
        self.ledger = Ledger(view)
        self._prefixes = Prefixes(view.waiting)
        self._free = [task for task in view.waiting if not self._prefixes.blocked(task)]
        self.ledger.oldest = min(
            self._free, key=lambda task: (RANKS[task.priority], task.number), default=None
        )
        self._order: list[Task] | None = None
        self._stall = 1  # times ``max_stall`` that this plan's pass may take
        # What this plan's pass leaves:
        self._joining: list[Task] = []
        self._chunked: Task | None = None
        self._waiting_for_chunk: set[str] = set()

    # ------------------------------------------------------------ callers

    def order(self) -> list[Task]:
        """The tasks that may run now, the next one first."""
        if self._order is None:
            askers = [row.asker for row in self.ledger.rows]
            self._order = self._in_order(self._view, self._free, askers)
        return self._order

    def let_callers_in(self) -> None:
        """Rule 2."""
        first = self._waits_in_vain()
        if first is None:
            return
        while self.ledger.fits(first) is None:
            (richest, most), *_ = self.ledger.shares().most_common(1) or [("", 0)]
            if most <= first.sequences:
                break
            self.ledger.preempt_youngest(row for row in self.ledger.rows if row.asker.caller == richest)
        self._order = None

    def _waits_in_vain(self) -> Task | None:
        """The next prompt, if its caller has no sequence in the batch and sequences of others are in its way."""
        shares = self.ledger.shares()
        if not self._free or max(shares.values(), default=0) < 2:
            return None
        first = self.order()[0]
        if shares[first.asker.caller] or self._view.step - first.since < YIELD:
            return None
        return None if self.ledger.fits(first) else first

    # ------------------------------------------------------------ prefill

    def _urgent(self, task: Task) -> bool:
        """Rule 7."""
        lowest = max((RANKS[row.priority] for row in self.ledger.rows), default=0)
        return self._decoding > 0 and RANKS[task.priority] < lowest

    def pauses(self) -> bool:
        """Rule 5; an accelerator has launched its decode pass before."""
        return self._view.limits.holds and self._decoding > 0

    def _above_last(self, task: Task) -> bool:
        """Whether all of the last prefill pass was of lower priority."""
        return RANKS[task.priority] < RANKS[self._view.read_for]

    @property
    def _decoding(self) -> int:
        """How many sequences a prefill pass would stall; a batch without an emitted token counts none."""
        return _decoding(self.ledger.rows)

    def prefill(self) -> tuple[Chunk, ...]:
        """At most one pass: a chunk of one prompt, or the rest of several."""
        if self._decodes_first():
            return ()
        order, room = self._fitting()
        if room is None or self._waits_for_more(order):
            return ()
        self.ledger.take(room)
        first, followers = self._prefixes.lead(order[0])
        self._stall = URGENT if self._urgent(first) else 1
        budget = self._tokens_behind(first.start)
        if first.stop - first.start <= budget and not first.stops and not (first.scores and first.left):
            return self._together(order)
        end = first.start + min(budget, first.stop - first.start)
        self._chunked = replace(first, done=end)
        self._waiting_for_chunk = set() if end == first.pause else set(followers)
        pause = first.pause if followers else None
        return (Chunk(first.id, first.start, end, pause=pause, followers=followers),)

    def _decodes_first(self) -> bool:
        """Rule 5: whether prefill has had its share for now."""
        share, costs = self._view.limits.read_share, self._view.costs
        owed = min(self._view.read * (1 - share) / share, DECODES * costs.decode)
        owes = self._view.decoded < owed or (self._view.read > 0 and not self._view.decoded)
        return self._decoding > 0 and owes and not self._comes_before_decode()

    def _comes_before_decode(self) -> bool:
        """Rule 7."""
        order = self.order()
        return bool(order) and self._above_last(order[0]) and self._urgent(order[0])

    def _tokens_behind(self, context: int) -> int:
        """Rule 5: most tokens of a pass behind a context of so many."""
        costs, limits = self._view.costs, self._view.limits
        if not self._decoding:
            return limits.chunk
        affordable = costs.affordable(self._stall * max(limits.max_stall, costs.decode), context)
        return min(limits.chunk, max(costs.smallest, costs.knee(context), affordable))

    def _fitting(self) -> tuple[list[Task], Room | None]:
        """Rule 4: the order from the first task that fits; the oldest one always does where no sequence decodes."""
        refused: Task | None = None
        for position, task in enumerate(self.order() if self.ledger.free_rows > 0 else ()):
            if refused is None or task.may_fit_before(refused):
                room = self.ledger.fits(task)
                if room is None and task is self.ledger.oldest and position == 0:
                    room = self.ledger.oldest_fits()
                if room:
                    return self.order()[position:], room
                refused = task
            if self._view.step - task.since >= PASSED:
                break
        oldest, room = self.ledger.oldest, self.ledger.oldest_fits()
        return [oldest, *(task for task in self.order() if task is not oldest)] if oldest else [], room

    def _waits_for_more(self, order: list[Task]) -> bool:
        """Whether a pass over so few prompts would cost so many sequences more than it gives."""
        if (
            len(order) >= self._decoding // COMPANY
            or any(task.done for task in order)
            or self._urgent(order[0])
        ):
            return False
        return self._view.step - min(task.since for task in order) < PATIENCE

    def _together(self, order: list[Task]) -> tuple[Chunk, ...]:
        """Rule 6: the tasks whose rest fits into one padded pass. The cheapest refusals are tried first."""
        chosen, sequences, width = [order[0]], order[0].sequences, self._rest(order[0])
        refused: Task | None = None
        for task in order[1:] if self._view.limits.batches else ():
            if sequences == self.ledger.free_rows or self._full(chosen, width, behind=0):
                break
            if (refused and not task.may_fit_before(refused)) or not self._shares_pass(task, chosen, width):
                continue
            if self._level(task) > self._level(chosen[0]) and self._urgent(chosen[0]):
                continue
            if (room := self.ledger.fits(task, chosen)) is None:
                refused = task
                continue
            if self._prefixes.lead(task)[0].stops or (task.scores and task.left):
                continue
            self.ledger.take(room)
            chosen.append(task)
            sequences, width = sequences + task.sequences, max(width, self._rest(task))
        self._joining = chosen
        return tuple(Chunk(task.id, task.start, task.tokens, joins=True) for task in chosen)

    def _level(self, task: Task) -> int:
        return level(task.priority, self._view.step - task.since)

    def _rest(self, task: Task) -> int:
        return task.left + (1 if self._view.limits.last_logits else 0)

    def _full(self, chosen: list[Task], width: int, behind: int) -> bool:
        most = self._tokens_behind(behind) * (1 if self._decoding else PROMPTS_AT_ONCE)
        return width * (len(chosen) + 1) > most

    def _shares_pass(self, task: Task, chosen: list[Task], width: int) -> bool:
        rest, starts = self._rest(task), {each.start for each in [task, *chosen]}
        padded = self._view.limits.pads or rest == width
        width, behind = max(width, rest), max(starts)
        alike = self._view.limits.mixes or len(starts) == 1
        # Below the knee a pass takes as long as one over fewer tokens.
        together = alike or width * (len(chosen) + 1) <= self._view.costs.knee(behind)
        return padded and together and not self._full(chosen, width, behind)

    # ------------------------------------------------------------ hold

    def holds(self, now: float) -> bool:
        """Rule 9, after this plan's pass."""
        rows = [*self.ledger.rows, *self._joined()] if self._view.limits.holds else []
        if not rows or _decoding(rows) or self._long_is_next(rows):
            return False
        since = now if self._view.fresh_since is None else self._view.fresh_since
        return now - since < HOLD * self._view.limits.max_stall

    def _joined(self) -> list[Row]:
        """The sequences that join with this pass, but for those that end with their first token."""
        drawn = 1 if self._view.limits.last_logits and any(task.left for task in self._joining) else 0
        return [
            Row(task.id, task.asker, drawn, begun=task.resumed)
            for task in self._joining
            if task.wanted > drawn
            for _ in range(task.sequences)
        ]

    def _long_is_next(self, rows: list[Row]) -> bool:
        taken = {task.id for task in self._joining} | self._waiting_for_chunk
        tasks = [task for task in self._free if task.id not in taken]
        if self._chunked:
            tasks = [self._chunked if task.id == self._chunked.id else task for task in tasks]
        after = replace(self._view, passes=self._view.passes + 1)
        order = self._in_order(after, tasks, [row.asker for row in rows])
        return bool(order) and order[0].left > PROMPTS_AT_ONCE * self._view.limits.chunk


def _decoding(rows: Sequence[Row]) -> int:
    return len(rows) if any(row.begun for row in rows) else 0
