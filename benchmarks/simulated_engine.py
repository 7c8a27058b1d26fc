"""An engine without a model: carries out the scheduler's plans in simulated time, by a table of what passes cost.

Prompts are lists of segments instead of ids, so that a prompt of 60,000 tokens is a few entries. Every plan is checked
as it is carried out: bytes, batch slots, and chunks that go on where the last one ended.
"""

import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import count

from shared.callers import Asker
from shared.key_terms import Priority
from workers.engine.kv.footprint import Slabs, SlabSize, capacity_for, slab_for
from workers.engine.memory.cost import Cost
from workers.engine.scheduling import scheduler
from workers.engine.scheduling.caller_use import CallerUse
from workers.engine.scheduling.fairness import RANKS
from workers.engine.scheduling.ledger import width_of
from workers.engine.scheduling.plan import Chunk, Costs, Limits, Memory, Plan, Row, Task, View

Segments = tuple[
    tuple[str, int], ...
]  # a name that stands for the same tokens everywhere, and how many they are
Planned = Callable[[View, float], Plan]


@dataclass(frozen=True)
class Machine:
    """Seconds. A decode pass costs ``decode``, more for each row, and more for each token of its context."""

    costs: Costs
    cost: Cost
    decode: float
    per_row: float
    per_context: float

    def decode_seconds(self, lengths: list[int]) -> float:
        return self.decode + self.per_row * len(lengths) + self.per_context * sum(lengths) if lengths else 0.0


@dataclass(frozen=True)
class Request:
    id: str
    caller: str
    arrival: float
    prompt: Segments
    answer: int
    kind: str = "chat"
    priority: Priority = "normal"

    @cached_property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.prompt)

    @property
    def spoken(self) -> Segments:
        """Prompt and answer, with which the next turn begins."""
        return (*self.prompt, (f"{self.id}.answer", self.answer))


@lru_cache(maxsize=100_000)
def prefixes_of(prompt: Segments) -> list[tuple[int, int, int]]:
    """Of each beginning: a hash, its tokens, and those of its last segment."""
    found, hashed, length = [], 0, 0
    for segment in prompt:
        hashed, length = hash((hashed, segment)), length + segment[1]
        found.append((hashed, length, segment[1]))
    return found


@dataclass
class Life:
    """What has become of a request. ``times``: when its client saw each token."""

    request: Request
    drawn: int = 0
    times: list[float] = field(default_factory=list)
    preempted: int = 0

    @property
    def length(self) -> int:
        """Tokens in the batch's caches."""
        return self.request.tokens + self.drawn - 1


class SimulatedEngine:
    """``asker``: whom the scheduler takes a request to be of. ``now``: seconds since the start."""

    def __init__(
        self,
        machine: Machine,
        size: int,
        limits: Limits | None = None,
        planned: Planned = scheduler.plan,
        asker: Callable[[Request], Asker] = lambda request: Asker(request.caller, request.id),
    ) -> None:
        self._asker = asker
        self.machine, self.size, self.limits, self.planned = machine, size, limits or Limits(), planned
        self.now = 0.0
        self.lives: dict[str, Life] = {}
        self.ended: list[Life] = []
        self.planning: list[float] = []  # processor seconds of each plan
        self.stalls: list[
            tuple[float, float]
        ] = []  # seconds of a pass beside decoding rows, and of a decode pass
        self._steps = self._passes = 0
        self._numbers = count()
        self._order: list[Segments] = []  # of the tasks
        self._tasks: list[Task] = []
        self._rows: list[str] = []
        self._slabs = Slabs()
        self._cache: OrderedDict[int, int] = (
            OrderedDict()
        )  # by hash of a prefix: bytes; the longest unused first
        self._cache_bytes = 0
        self._changed = True
        self._use = CallerUse()
        self._fresh_since: float | None = None
        self._decode_seconds = self._read = self._decoded = 0.0
        self._read_for: Priority = "high"

    @property
    def active(self) -> bool:
        return bool(self._tasks or self._rows)

    def submit(self, request: Request) -> None:
        self.lives[request.id] = Life(request)
        self._wait(request.id)

    def step(self) -> Plan:
        """Plans, carries the plan out, and lets the time pass that it takes."""
        self._steps += 1
        view = self.view()
        began = time.process_time()
        plan = self.planned(view, self.now)
        self.planning.append(time.process_time() - began)
        self._make_room(plan)
        stalls = any(self.lives[id].times for id in self._rows)
        read = self._prefill(plan, stalls)
        if plan.hold:
            self._fresh_since = self.now if self._fresh_since is None else self._fresh_since
        elif plan.pause:
            self._tell()
        else:
            self._decode(read if stalls else 0.0)
        self._keep_within(max(0, self.size - self._held()))
        assert self._held() <= self.size or len(self._rows) <= 1, "keys and values exceed the memory"
        assert len(self._rows) <= self.limits.rows
        return plan

    def view(self) -> View:
        if self._changed:
            for place, task in enumerate(self._tasks):
                if not task.done and (cached := self._cached(task)) != task.cached:
                    self._tasks[place] = replace(task, cached=cached)
        self._changed = False
        asked = (self.lives[id] for id in self._rows)
        return View(
            step=self._steps,
            waiting=tuple(self._tasks),
            running=tuple(
                Row(
                    each.request.id,
                    self._asker(each.request),
                    each.drawn,
                    bool(each.times),
                    each.request.priority,
                )
                for each in asked
            ),
            memory=Memory(self.machine.cost, self.size, self._slabs, self._cache_bytes, self.limits.chunk),
            costs=replace(self.machine.costs, decode=self._decode_seconds),
            limits=self.limits,
            fresh_since=self._fresh_since,
            used=self._use.shown(self.now),
            passes=self._passes,
            read=self._read,
            read_for=self._read_for,
            decoded=self._decoded,
        )

    # ------------------------------------------------------------ carrying out

    def _make_room(self, plan: Plan) -> None:
        for id in plan.preempt:
            self._leave([id])
            self.lives[id].preempted += 1
            self._wait(id)
        for task in [task for task in self._tasks if task.id in plan.restart]:
            self._set(task, done=0, bytes=0, kept=0, pause=None)
        for chunk in plan.prefill:
            self._touch(self.lives[chunk.task].request.prompt)
        if plan.cache_bytes is not None:
            self._keep_within(plan.cache_bytes)

    def _prefill(self, plan: Plan, stalls: bool) -> float:
        if not plan.prefill:
            return 0.0
        self._slabs = self._sized()  # what ended sequences leave is given back first
        chunks = {chunk.task: chunk for chunk in plan.prefill}
        tasks = [task for task in self._tasks if task.id in chunks]
        self._check(tasks, chunks)
        width = max(chunk.end - chunk.start for chunk in plan.prefill)
        seconds = self.machine.costs.prefill(width * len(tasks), max(chunk.start for chunk in plan.prefill))
        self.now += seconds
        self._passes += 1
        self._read, self._decoded = seconds if stalls else 0.0, 0.0
        self._read_for = min((task.priority for task in tasks), key=RANKS.__getitem__)
        self._use.charge([task.asker.caller for task in tasks], seconds)
        for task in tasks:
            self._advance(task, chunks[task.id])
        if stalls:
            self.stalls.append((seconds, self._decode_seconds))
        return seconds

    def _check(self, tasks: list[Task], chunks: dict[str, Chunk]) -> None:
        assert len(tasks) == len(chunks)
        for task in tasks:
            assert task.start == chunks[task.id].start <= chunks[task.id].end <= task.tokens, task
        reading = sum(self.machine.cost.bytes(width_of(tasks)) for _ in tasks)
        before = self._held() - sum(task.bytes for task in tasks)
        alone = not self._rows and len(tasks) == 1
        assert before + reading <= self.size or alone, "a prefill pass exceeds the memory"

    def _advance(self, task: Task, chunk: Chunk) -> None:
        life = self.lives[task.id]
        if chunk.joins:
            self._remove(task)
            self._keep(life.request.prompt, life.request.tokens)
            life.drawn += 1
            self._join(task.id, life.length)
            return
        if chunk.followers:
            for follower in [each for each in self._tasks if each.id in chunk.followers]:
                self._set(follower, leader=task.id)
        pause = task.pause if chunk.pause is None else chunk.pause
        if chunk.end == pause:
            self._keep(life.request.prompt, chunk.end)
        held = self.machine.cost.bytes(chunk.end)
        self._set(task, done=chunk.end, cached=0, bytes=held, pause=None if chunk.end == pause else pause)

    def _decode(self, read: float) -> None:
        """Rows that begin together get their first tokens; else all get one, and those that have just joined two."""
        self._fresh_since = None
        fresh = not any(self.lives[id].times for id in self._rows)
        running = [id for id in self._rows if self.lives[id].drawn < self.lives[id].request.answer]
        if not fresh and running:
            seconds = self.machine.decode_seconds([self.lives[id].length for id in running])
            self._decode_seconds = seconds
            self._decoded += seconds
            self._use.charge([self.lives[id].request.caller for id in running], seconds)
            self.now += seconds
            for id in running:
                self.lives[id].drawn += 1
            self._slabs = self._sized()
        self._tell()

    def _tell(self) -> None:
        """Clients get what was drawn."""
        for id in list(self._rows):
            life = self.lives[id]
            life.times += [self.now] * (life.drawn - len(life.times))
            if life.drawn >= life.request.answer:
                self._leave([id])
                self._keep(life.request.spoken, life.length + 1)
                self.ended.append(life)

    # ------------------------------------------------------------ what it holds

    def _wait(self, id: str) -> None:
        life = self.lives[id]
        request, tokens = life.request, life.request.tokens + life.drawn
        task = Task(
            id=id,
            number=next(self._numbers),
            since=self._steps,
            tokens=tokens,
            asker=self._asker(request),
            priority=request.priority,
            wanted=request.answer - life.drawn,
            resumed=bool(life.times),
        )
        task = replace(task, cached=self._cached(task))
        place = bisect_left(self._order, request.prompt)
        self._order.insert(place, request.prompt)
        self._tasks.insert(place, task)
        self._share(place)
        self._share(place + 1)

    def _remove(self, task: Task) -> None:
        place = self._place(task)
        del self._order[place], self._tasks[place]
        self._share(place)

    def _set(self, task: Task, **changed: object) -> None:
        place = self._place(task)
        self._tasks[place] = replace(self._tasks[place], **changed)  # type: ignore[arg-type]

    def _place(self, task: Task) -> int:
        place = bisect_left(self._order, self.lives[task.id].request.prompt)
        while self._tasks[place].id != task.id:
            place += 1
        return place

    def _share(self, place: int) -> None:
        if place < len(self._tasks):
            shared = in_common(self._order[place - 1], self._order[place]) if place else 0
            least = min(self._tasks[place].end, self._tasks[place - 1].end)
            self._tasks[place] = replace(self._tasks[place], shares=min(shared, least))

    def _join(self, id: str, length: int) -> None:
        then = [(len(slab.lengths), max(slab.lengths)) for slab in self._slabs.slabs]
        at = slab_for(then, length, self._slabs.most)
        slabs = list(self._slabs.slabs)
        first = sum(len(slab.lengths) for slab in slabs[: at + 1])
        old = slabs[at] if at < len(slabs) else SlabSize(0, 0, ())
        slabs[at : at + 1] = [_sized(old, (*old.lengths, length))]
        self._rows.insert(first, id)
        self._slabs = replace(self._slabs, slabs=tuple(slabs))

    def _leave(self, ids: list[str]) -> None:
        gone = {place for place, id in enumerate(self._rows) if id in ids}
        self._slabs = self._slabs.without(gone)
        self._rows = [id for id in self._rows if id not in ids]

    def _sized(self) -> Slabs:
        lengths = iter([self.lives[id].length for id in self._rows])
        sized = (_sized(slab, tuple(next(lengths) for _ in slab.lengths)) for slab in self._slabs.slabs)
        return replace(self._slabs, slabs=tuple(sized))

    def _held(self) -> int:
        rows = sum(self.machine.cost.bytes(slab.tokens, slab.rows) for slab in self._slabs.slabs)
        return rows + sum(task.bytes for task in self._tasks)

    # ------------------------------------------------------------ prefix cache

    def _cached(self, task: Task) -> int:
        length = 0
        for hashed, tokens, _ in prefixes_of(self.lives[task.id].request.prompt):
            if hashed not in self._cache:
                break
            length = tokens
        return min(length, task.end)

    def _touch(self, prompt: Segments) -> None:
        for hashed, _, _ in reversed(prefixes_of(prompt)):
            if hashed in self._cache:
                self._cache.move_to_end(hashed)

    def _keep(self, prompt: Segments, tokens: int) -> None:
        """Whole segments; a prefix counts as used later than what goes on from it."""
        for hashed, length, last in prefixes_of(prompt):
            if length <= tokens and hashed not in self._cache:
                self._cache[hashed] = self.machine.cost.bytes(last)
                self._cache_bytes += self._cache[hashed]
                self._changed = True
        self._touch(prompt)

    def _keep_within(self, size: int) -> None:
        while self._cache_bytes > size:
            _, freed = self._cache.popitem(last=False)
            self._cache_bytes -= freed
            self._changed = True


def _sized(slab: SlabSize, lengths: tuple[int, ...]) -> SlabSize:
    rows, tokens = capacity_for((slab.rows, slab.tokens), len(lengths), max(lengths) + 1, compact=True)
    return SlabSize(rows, tokens, lengths)


def in_common(one: Segments, other: Segments) -> int:
    """Tokens of the segments that both begin with."""
    tokens = 0
    for (name, more), (theirs, _) in zip(one, other, strict=False):
        if name != theirs:
            break
        tokens += more
    return tokens
