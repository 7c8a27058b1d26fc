"""The prompts that wait to be prefilled: their ids and caches, and what the scheduler is shown of them.

The queue keeps its tasks in the order of their ids, so that prompts with a common prefix are neighbours. It decides
nothing: see ``scheduler``.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf

from workers.engine.kv.kept_prefix import KeptPrefix
from workers.engine.kv.mlx_caches import Cache, nbytes
from workers.engine.scheduling.plan import Task
from workers.sequence import TokenSequence
from workers.token_ids import Ids, as_ids, common_prefix


@dataclass(eq=False)
class PrefillTask:
    """Ids to be prefilled for the sequences that all begin with them.

    ``ids``: the prompt, then the tokens that an earlier attempt or a preempted sequence generated. ``read`` lacks the
    last id: its logits give the first token, so it is never taken from the prefix cache.
    """

    ids: list[int]
    sequences: list[TokenSequence]
    since: int  # the step it came in
    number: int = 0
    came: float = inf  # when its request came, in seconds; inf: it has run before
    cache: Cache | KeptPrefix | None = None  # of the first ``done`` ids

    def __post_init__(self) -> None:
        self.read: Ids = as_ids(self.ids[:-1])
        first = self.sequences[0]
        job = first.job
        self.key = job.generation.cache_namespace.encode() + b"\0" + self.read.astype(">i4").tobytes()
        self.shown = Task(
            id=f"{job.request_id}/{first.choice}",
            number=self.number,
            since=self.since,
            tokens=len(self.ids),
            asker=job.asker,
            priority=job.priority,
            sequences=len(self.sequences),
            wanted=job.max_tokens - len(first.ids),
            resumed=bool(first.ids),
            checkpoints=tuple(job.checkpoints),
            scores=job.scores_prompt and not first.ids,
        )

    def now(self, **changed: object) -> None:
        """What the scheduler is shown from now on."""
        if any(getattr(self.shown, name) != value for name, value in changed.items()):
            self.shown = replace(self.shown, **changed)  # type: ignore[arg-type]

    @property
    def id(self) -> str:
        return self.shown.id

    @property
    def done(self) -> int:
        return self.shown.done

    @property
    def left(self) -> int:
        return len(self.read) - self.done

    @property
    def scores(self) -> bool:
        return self.shown.scores

    @property
    def namespace(self) -> str:
        return self.sequences[0].job.generation.cache_namespace

    @property
    def ended(self) -> bool:
        return all(sequence.ended for sequence in self.sequences)

    def restart(self) -> None:
        """Drops the task's cache; the prefix cache is matched again."""
        self.cache = None
        self.now(done=0, bytes=0, kept=0, pause=None)
        for sequence in self.sequences:
            sequence.prompt_logprobs = None

    def give_up_cache(self) -> Cache | KeptPrefix | None:
        """The caller's own from now on; for the last pass of the task."""
        cache, self.cache = self.cache, None
        return cache

    def advance(self, cache: Cache | KeptPrefix, tokens: int) -> None:
        self.cache = cache
        done = self.done + tokens
        pause = None if self.shown.pause == done else self.shown.pause
        self.now(done=done, cached=0, bytes=nbytes(cache), pause=pause)


class PrefillQueue:
    """``tasks``: in the order of namespace and ids."""

    def __init__(self) -> None:
        self.tasks: list[PrefillTask] = []
        self._keys: list[bytes] = []
        self._count = 0
        self._looked_up = -1  # the state of the prefix cache at the last look

    def __len__(self) -> int:
        return len(self.tasks)

    def sequences(self, *, half_prefilled: bool) -> int:
        """How many sequences wait for tasks that are prefilled in part, or for those not begun."""
        return sum(len(r.sequences) for r in self.tasks if (r.cache is not None) == half_prefilled)

    def waited(self, now: float) -> float:
        """Seconds that the oldest request has waited for its prefill to begin."""
        return max(
            (now - task.came for task in self.tasks if task.cache is None and task.came < inf), default=0.0
        )

    @property
    def tokens(self) -> int:
        return sum(task.left for task in self.tasks)

    @property
    def bytes(self) -> int:
        """Bytes of the caches of partly prefilled tasks."""
        return sum(task.shown.bytes for task in self.tasks)

    def shown(self) -> tuple[Task, ...]:
        return tuple(task.shown for task in self.tasks)

    def find(self, ids: Iterable[str]) -> list[PrefillTask]:
        known = {task.id: task for task in self.tasks}
        return [known[id] for id in ids]

    def add(
        self, ids: list[int], sequences: list[TokenSequence], step: int, came: float = inf
    ) -> PrefillTask:
        self._count += 1
        task = PrefillTask(ids, sequences, step, self._count, came)
        place = bisect_left(self._keys, task.key)
        self.tasks.insert(place, task)
        self._keys.insert(place, task.key)
        self._share(place)
        self._share(place + 1)
        self._looked_up = -1
        return task

    def remove(self, tasks: list[PrefillTask]) -> None:
        for task in tasks:
            place = self.tasks.index(task)
            del self.tasks[place], self._keys[place]
            self._share(place)

    def drop_ended(self) -> list[PrefillTask]:
        """Takes out the tasks whose sequences have all ended."""
        ended = [task for task in self.tasks if task.ended]
        if ended:
            self.remove(ended)
        return ended

    def look_up(self, matched: Callable[[str, Ids], int], changes: int) -> None:
        """Notes what the prefix cache has of tasks that have not begun. ``changes`` counts those of the cache."""
        if changes == self._looked_up:
            return
        self._looked_up = changes
        for task in self.tasks:
            if task.cache is None and not task.scores:
                task.now(cached=matched(task.namespace, task.read))

    def _share(self, place: int) -> None:
        """Notes what the task at ``place`` has in common with the one before."""
        if not place < len(self.tasks):
            return
        task, before = self.tasks[place], self.tasks[place - 1] if place else None
        alike = before is not None and before.namespace == task.namespace
        task.now(shares=common_prefix(before.read, task.read) if before and alike else 0)
