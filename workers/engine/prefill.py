"""Queues prompts for prefill and decides which of them the next pass takes.

Rule 1: shortest remaining first. Waiting makes a prompt count as shorter (ageing), so that none starves.
Rule 2: short prompts share a pass; a long one has passes of its own, in chunks.
Rule 3: a prefix that several waiting prompts share is prefilled once: one task stops at its end and stores it in the
prefix cache, the others wait and match it. A task stops at its prompt's checkpoints too.
Rule 4: a task that does not fit, for want of batch slots or memory, is passed by tasks that do. After ``PASSED`` steps
at the head of the order it is passed no more: sequences end until it fits.
Rule 5: callers take turns before all that: the caller with fewer sequences is next, weighed by its priority.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from shared.callers import Asker
from workers.engine.fairness import in_turns, weights
from workers.engine.kv.mlx_caches import Cache, nbytes
from workers.engine.kv.prefix_cache import SMALLEST
from workers.sequence import TokenSequence
from workers.token_ids import Ids, as_ids, common_prefix

AGEING = 64  # tokens a prompt counts as shorter for each step it has waited
PASSED = 100  # steps for which a task may be overtaken
WORTH = 64  # tokens that must be saved before a shared prefix gets a pass of its own


@dataclass(eq=False)
class PrefillTask:
    """Ids to be prefilled for the sequences that all begin with them.

    ``ids``: the prompt, then the tokens that an earlier attempt or a preempted sequence generated. ``read`` lacks the
    last id: its logits give the first token, so it is never taken from the prefix cache.
    """

    ids: list[int]
    sequences: list[TokenSequence]
    since: int  # the step it came in
    came: float = inf  # when its request came, in seconds; inf: it has run before
    cache: Cache | None = None  # of the first ``done`` ids
    done: int = 0
    matched: bool = False  # in the prefix cache
    kept: int = 0  # ids that the prefix cache has
    pause: int | None = None  # length of the shared prefix to be stored
    leader: "PrefillTask | None" = None  # the task that prefills the shared prefix

    def __post_init__(self) -> None:
        self.read: Ids = as_ids(self.ids[:-1])

    @property
    def left(self) -> int:
        return len(self.read) - self.done

    @property
    def stop(self) -> int:
        """The length at which the task stops to store a prefix; the length of ``read`` if it does not stop."""
        least, end = max(self.done + 1, self.kept + WORTH), len(self.read)
        ahead = (length for length in self.sequences[0].job.checkpoints if least <= length < end)
        return min(self.pause or end, next(ahead, end))

    @property
    def stops(self) -> bool:
        """Whether the task stops to store a prefix; also at its end, if other tasks wait for it."""
        return self.pause is not None or self.stop < len(self.read)

    @property
    def scores(self) -> bool:
        """Whether prompt log-probabilities are requested; such a prompt is prefilled whole and alone."""
        return self.sequences[0].job.scores_prompt and not self.sequences[0].ids

    @property
    def namespace(self) -> str:
        return self.sequences[0].job.generation.cache_namespace

    @property
    def asker(self) -> Asker:
        return self.sequences[0].job.asker

    @property
    def ended(self) -> bool:
        return all(sequence.ended for sequence in self.sequences)

    @property
    def blocked(self) -> bool:
        leader = self.leader
        return leader is not None and leader.pause is not None and not leader.ended

    @property
    def bytes(self) -> int:
        return nbytes(self.cache) if self.cache is not None else 0

    def may_fit_before(self, refused: "PrefillTask") -> bool:
        """Whether the task is smaller than ``refused``, which did not fit; it saves the check of hundreds of tasks."""
        return (
            self.cache is not None
            or len(self.ids) < len(refused.ids)
            or len(self.sequences) < len(refused.sequences)
        )

    def restart(self) -> None:
        """Drops the task's cache; the prefix cache is matched again."""
        self.cache, self.done, self.matched, self.kept, self.pause = None, 0, False, 0, None
        for sequence in self.sequences:
            sequence.prompt_logprobs = None

    def advance(self, cache: Cache, tokens: int) -> None:
        self.cache = cache
        self.done += tokens
        self.matched = True


def width_of(tasks: Sequence[PrefillTask]) -> int:
    """The tokens of the tasks' padded cache, in which each rest begins after the longest ``done``."""
    done = max((task.done for task in tasks), default=0)
    return done + max((len(task.ids) - task.done for task in tasks), default=0)


class PrefillQueue:
    def __init__(self) -> None:
        self._tasks: list[PrefillTask] = []

    def __len__(self) -> int:
        return len(self._tasks)

    def sequences(self, *, half_prefilled: bool) -> int:
        """How many sequences wait for tasks that are prefilled in part, or for those not begun."""
        return sum(len(r.sequences) for r in self._tasks if (r.cache is not None) == half_prefilled)

    def waited(self, now: float) -> float:
        """Seconds that the oldest request has waited for its prefill to begin."""
        return max(
            (now - task.came for task in self._tasks if task.cache is None and task.came < inf), default=0.0
        )

    @property
    def tokens(self) -> int:
        return sum(task.left for task in self._tasks)

    @property
    def bytes(self) -> int:
        """Bytes of the caches of partly prefilled tasks."""
        return sum(task.bytes for task in self._tasks)

    def half_prefilled(self) -> list[PrefillTask]:
        return [task for task in self._tasks if task.cache is not None]

    def add(self, task: PrefillTask) -> None:
        self._tasks.append(task)

    def remove(self, tasks: list[PrefillTask]) -> None:
        self._tasks = [task for task in self._tasks if task not in tasks]

    def drop_ended(self) -> list[PrefillTask]:
        """Takes out the tasks whose sequences have all ended."""
        ended = [task for task in self._tasks if task.ended]
        if ended:
            self.remove(ended)
        return ended

    def in_order(self, step: int, held: Iterable[Asker] = ()) -> list[PrefillTask]:
        """The tasks that may run now, the next one first; ``held``: the askers of the decoding sequences."""
        free = [task for task in self._tasks if not task.blocked]
        urgent = sorted(free, key=lambda r: (r.left - AGEING * (step - r.since), r.since))
        weight = weights([(task.sequences[0].job.priority, step - task.since) for task in urgent])
        return in_turns(urgent, lambda r: r.asker, lambda r: len(r.sequences), held, weight)

    def lead(self, task: PrefillTask) -> None:
        """Sets the pause where others can go on from ``task``; they wait for it, then match it."""
        if task.pause is not None:
            return
        followers = [
            (common_prefix(task.read, other.read), other)
            for other in self._tasks
            if other is not task
            and not other.done
            and not other.blocked
            and other.namespace == task.namespace
        ]
        saved = {
            length: (length - task.done) * sum(shared >= length for shared, _ in followers)
            for length, _ in followers
            if length >= SMALLEST and length > task.done
        }
        best = max(saved, key=lambda length: saved[length], default=0)
        if not best or saved[best] < WORTH:
            return
        task.pause = best
        for shared, other in followers:
            if shared >= best:
                other.leader, other.matched = task, False
