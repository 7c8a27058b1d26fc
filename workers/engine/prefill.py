"""Prompts that wait to be read, and what is read in the next step.

Rule 1: shortest remaining first, so that a long prompt does not keep short ones from starting; a prompt that waits
counts as shorter (ageing), so that short ones cannot keep a long one out for ever.
Rule 2: short prompts are read in one pass together, long ones alone and in chunks.
Rule 3: what several waiting prompts begin with is read once: the first reads up to there and leaves it in the prefix
cache, the others wait for that. It does so at a prompt's boundaries as well, which others will come to.
Rule 4: who does not fit beside the rows that decode, for want of seats or memory, is passed by those who do. When it
has waited so long that it would be next, and ``PASSED`` steps, nobody passes it any more: rows end until it fits.
Rule 5: callers take turns, before all that: who has fewer rows is next.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.callers import Asker
from workers.engine.fairness import in_turns
from workers.engine.kv.mlx_caches import Cache, nbytes
from workers.engine.kv.prefix_cache import SMALLEST
from workers.sequence import Row
from workers.token_ids import Ids, as_ids, common_prefix

AGEING = 64  # tokens a prompt counts as shorter for each step it has waited
PASSED = 100  # steps
WORTH = 64  # tokens that must be saved for a shared beginning to get a pass of its own


@dataclass(eq=False)
class Reading:
    """A run of ids on its way into a cache, for rows that all begin with it.

    ``read`` leaves the last id out: its logits give the rows' first tokens, so a kept prompt needs it again. ``ids`` is
    the prompt, and behind it what an earlier attempt or a row that had to leave the batch has already generated.
    """

    ids: list[int]
    rows: list[Row]
    since: int  # the step it came in
    cache: Cache | None = None  # of the first ``done`` ids
    done: int = 0
    looked_up: bool = False  # in the prefix cache
    kept: int = 0  # so many of the ids the prefix cache has
    pause: int | None = None  # where to stop, to leave a shared beginning in the prefix cache
    leader: "Reading | None" = None  # reads our beginning just now

    def __post_init__(self) -> None:
        self.read: Ids = as_ids(self.ids[:-1])

    @property
    def left(self) -> int:
        return len(self.read) - self.done

    @property
    def stop(self) -> int:
        """Where to leave what was read in the prefix cache, before the rest is read; all of it if nowhere."""
        least, end = max(self.done + 1, self.kept + WORTH), len(self.read)
        ahead = (length for length in self.rows[0].job.checkpoints if least <= length < end)
        return min(self.pause or end, next(ahead, end))

    @property
    def stops(self) -> bool:
        """Also at its end, if others wait for what it has read."""
        return self.pause is not None or self.stop < len(self.read)

    @property
    def scores(self) -> bool:
        """Whether the log-probabilities of the prompt are wanted: then all of it is read, alone."""
        return self.rows[0].job.scores_prompt and not self.rows[0].ids

    @property
    def namespace(self) -> str:
        return self.rows[0].job.generation.cache_namespace

    @property
    def asker(self) -> Asker:
        return self.rows[0].job.asker

    @property
    def ended(self) -> bool:
        return all(row.ended for row in self.rows)

    @property
    def blocked(self) -> bool:
        leader = self.leader
        return leader is not None and leader.pause is not None and not leader.ended

    @property
    def bytes(self) -> int:
        return nbytes(self.cache) if self.cache is not None else 0

    def may_fit_before(self, refused: "Reading") -> bool:
        """Hundreds may wait for memory: who asks for no less than one that does not fit is not looked at."""
        return (
            self.cache is not None or len(self.ids) < len(refused.ids) or len(self.rows) < len(refused.rows)
        )

    def restart(self) -> None:
        """Forgets what was read; it is looked up again, as it may have been kept."""
        self.cache, self.done, self.looked_up, self.kept, self.pause = None, 0, False, 0, None
        for row in self.rows:
            row.prompt_logprobs = None

    def advance(self, cache: Cache, tokens: int) -> None:
        self.cache = cache
        self.done += tokens
        self.looked_up = True


def width_of(readings: Sequence[Reading]) -> int:
    """Tokens of a cache they are read into together: each rest begins behind the longest beginning."""
    done = max((reading.done for reading in readings), default=0)
    return done + max((len(reading.ids) - reading.done for reading in readings), default=0)


class Waiting:
    def __init__(self) -> None:
        self._readings: list[Reading] = []

    def __len__(self) -> int:
        return len(self._readings)

    def rows(self, *, half_read: bool) -> int:
        """Of the prompts that are read half-way, or of those not begun."""
        return sum(len(r.rows) for r in self._readings if (r.cache is not None) == half_read)

    @property
    def tokens(self) -> int:
        return sum(reading.left for reading in self._readings)

    @property
    def bytes(self) -> int:
        """Of the prompts that are read half-way."""
        return sum(reading.bytes for reading in self._readings)

    def half_read(self) -> list[Reading]:
        return [reading for reading in self._readings if reading.cache is not None]

    def add(self, reading: Reading) -> None:
        self._readings.append(reading)

    def remove(self, readings: list[Reading]) -> None:
        self._readings = [reading for reading in self._readings if reading not in readings]

    def drop_ended(self) -> list[Reading]:
        """Takes out the readings nobody waits for any more."""
        ended = [reading for reading in self._readings if reading.ended]
        if ended:
            self.remove(ended)
        return ended

    def in_order(self, step: int, held: Iterable[Asker] = ()) -> list[Reading]:
        """Those that may be read now, who is next first; ``held``: the askers of the rows that decode."""
        free = [reading for reading in self._readings if not reading.blocked]
        urgent = sorted(free, key=lambda r: (r.left - AGEING * (step - r.since), r.since))
        return in_turns(urgent, lambda r: r.asker, lambda r: len(r.rows), held)

    def lead(self, reading: Reading) -> None:
        """Sets the pause at which others can go on from what ``reading`` has read; they wait for it, and look it up."""
        if reading.pause is not None:
            return
        followers = [
            (common_prefix(reading.read, other.read), other)
            for other in self._readings
            if other is not reading
            and not other.done
            and not other.blocked
            and other.namespace == reading.namespace
        ]
        saved = {
            length: (length - reading.done) * sum(shared >= length for shared, _ in followers)
            for length, _ in followers
            if length >= SMALLEST and length > reading.done
        }
        best = max(saved, key=lambda length: saved[length], default=0)
        if not best or saved[best] < WORTH:
            return
        reading.pause = best
        for shared, other in followers:
            if shared >= best:
                other.leader, other.looked_up = reading, False
