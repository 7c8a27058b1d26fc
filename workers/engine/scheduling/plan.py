"""What the scheduler is shown and what it answers: frozen values that compare with ``==`` and print on one line. Pure.

Rule 1: the maker of a View has read the caches and the counters; the reader of a Plan needs neither.
Rule 2: lengths are in tokens, sizes in bytes, times in seconds, waits in steps.
Rule 3: a plan is carried out in the order of its fields.
"""

from dataclasses import dataclass, field

from shared.callers import Asker
from shared.key_terms import Priority
from workers.engine.kv.footprint import Footprint, OneArray
from workers.engine.memory.cost import Cost

SMALLEST = 48  # tokens; half the cost of a smaller pass is there whatever its size
SMALLEST_BEYOND = 32  # tokens, where the knee is known; a matrix product takes as long for fewer
WORTH = 64  # tokens that must be saved before a shared prefix gets a pass of its own


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt to be prefilled, for sequences that all begin with it; or a preempted sequence with its tokens.

    The last of its ``tokens`` is never taken from the prefix cache: its logits give the first token.
    """

    id: str
    number: int  # in order of arrival
    since: int  # the step it came in
    tokens: int
    asker: Asker
    priority: Priority = "normal"
    sequences: int = 1
    wanted: int = 1 << 30  # tokens still to be drawn for each sequence
    resumed: bool = False  # its client has tokens of it
    done: int = 0  # tokens prefilled
    cached: int = 0  # tokens that the prefix cache has of a task that has not begun
    kept: int = 0  # tokens that this task stored there
    bytes: int = 0  # of its own cache
    shares: int = 0  # tokens in common with the task before it in the view
    checkpoints: tuple[int, ...] = ()  # lengths at which the prefix cache should have it
    pause: int | None = None  # the end of a prefix that others wait for
    leader: str | None = None  # the task whose ``pause`` it waits for
    scores: bool = False  # prompt log-probabilities are wanted: it is prefilled whole and alone

    @property
    def start(self) -> int:
        return self.done or self.cached

    @property
    def end(self) -> int:
        """Of what can be prefilled without joining the batch."""
        return self.tokens - 1

    @property
    def left(self) -> int:
        return self.end - self.start

    @property
    def stop(self) -> int:
        """The length at which the task stops to store a prefix; ``end`` if it does not stop."""
        least = max(self.start + 1, (self.kept or self.cached) + WORTH)
        ahead = (length for length in self.checkpoints if least <= length < self.end)
        return min(self.pause or self.end, next(ahead, self.end))

    @property
    def stops(self) -> bool:
        """Whether the task stops to store a prefix; also at its end, if other tasks wait for it."""
        return self.pause is not None or self.stop < self.end

    def may_fit_before(self, refused: "Task") -> bool:
        """Whether the task is smaller than ``refused``, which did not fit; it saves the check of hundreds of tasks."""
        return self.done > 0 or self.tokens < refused.tokens or self.sequences < refused.sequences


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence that decodes. ``begun``: its client has tokens of it, or will have some of a launched pass."""

    id: str
    asker: Asker
    drawn: int = 0
    begun: bool = True
    priority: Priority = "normal"


@dataclass(frozen=True)
class Memory:
    """``size``: the most bytes that keys and values may take, the prefix cache included. ``chunk``: see ``Limits``."""

    cost: Cost
    size: int = 1 << 40
    footprint: Footprint = field(default_factory=OneArray)
    cache_bytes: int = 0
    chunk: int = 512


@dataclass(frozen=True)
class Costs:
    """What passes take, as measured: a fixed time, a time per token, and a time per token and token of context.

    ``floor``: what the smallest pass takes on an accelerator, where the weights are read while few tokens are computed.
    Up to the ``knee`` more tokens cost nothing. On a CPU both are 0.
    """

    fixed: float = 0.0
    per_token: float = 0.001
    per_look: float = 0.0
    slowness: float = 1.0  # of the machine now, against these
    decode: float = 0.0  # of a decode pass, lately
    floor: float = 0.0

    def prefill(self, tokens: int, behind: int) -> float:
        """Seconds of a pass, before ``slowness``; ``behind``: context length."""
        return max(self.floor, self.fixed + (self.per_token + self.per_look * behind) * tokens)

    def knee(self, behind: int) -> int:
        """The most tokens that a pass computes in the time of the smallest one."""
        return max(0, self._tokens(self.floor, behind))

    @property
    def smallest(self) -> int:
        """Tokens of a pass for which it is worth to be apart."""
        return SMALLEST_BEYOND if self.floor else SMALLEST

    def affordable(self, seconds: float, behind: int) -> int:
        """Tokens of a pass that takes so long."""
        return self._tokens(seconds / self.slowness, behind)

    def _tokens(self, seconds: float, behind: int) -> int:
        return int((seconds - self.fixed) / (self.per_token + self.per_look * behind))


@dataclass(frozen=True)
class Limits:
    """``batches`` and ``pads``: prompts, and prompts of unlike length, can share a pass.

    ``mixes``: so can prompts behind contexts of unlike length, although they need a mask for each. Where passes are
    bound by what they compute, as on an accelerator, they are faster apart.

    ``last_logits``: a prompt's last pass gives its first token. ``holds``: first tokens are held, which pays where
    prompts are prefilled much faster together than one by one, as on a CPU; and passes run in turn, one in a step
    beside sequences that decode. Where a decode pass takes longer than ``max_stall``, a prefill pass may take as long
    as it: else a batch would never fill.
    """

    rows: int = 32  # sequences that decode together
    chunk: int = 512  # most tokens of a prompt in a pass
    max_stall: float = 0.2  # seconds that a prefill pass may stall the decoding sequences
    read_share: float = 0.75  # of the time that prefill passes may take while sequences decode
    batches: bool = True
    pads: bool = True
    mixes: bool = True
    last_logits: bool = True
    holds: bool = True


@dataclass(frozen=True)
class View:
    """``waiting``: in the order of their ids, so that tasks with a common prefix are neighbours; see ``Task.shares``.

    ``running``: in the order of the batch, ended sequences left out. ``fresh_since``: since when first tokens are held.
    ``used``: seconds of the machine that each caller had lately. ``read``: seconds of the last prefill pass, if it
    stalled sequences, and ``read_for`` the highest priority in it; ``decoded``: seconds of decode passes since then,
    with the one that this step launches before its prefill pass, if it does.
    """

    step: int
    waiting: tuple[Task, ...]
    running: tuple[Row, ...]
    memory: Memory
    costs: Costs = field(default_factory=Costs)
    limits: Limits = field(default_factory=Limits)
    fresh_since: float | None = None
    used: tuple[tuple[str, float], ...] = ()
    passes: int = 0  # prefill passes so far
    read: float = 0.0
    read_for: Priority = "high"
    decoded: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """Tokens ``start`` to ``end`` of a task. With its last token its sequences join the batch (``joins``).

    ``followers`` wait until the task has come to ``pause``, and then find that much in the prefix cache.
    """

    task: str
    start: int
    end: int
    joins: bool = False
    pause: int | None = None
    followers: tuple[str, ...] = ()

    def __str__(self) -> str:
        waiting = f">{self.pause}:{','.join(self.followers)}" if self.followers else ""
        return f"{self.task}[{self.start}:{self.end}{'!' if self.joins else ''}]{waiting}"


@dataclass(frozen=True)
class Plan:
    """One step. All sequences that are left decode, unless ``hold`` or ``pause``."""

    preempt: tuple[str, ...] = ()  # sequences that leave the batch and wait again
    restart: tuple[str, ...] = ()  # tasks that give back what they have prefilled; the prefix cache stores it
    compact: bool = False  # the batch's caches hold no headroom
    cache_bytes: int | None = (
        None  # the prefix cache is evicted down to so many; the least recently used goes first
    )
    prefill: tuple[Chunk, ...] = ()  # one pass: a chunk of one task, or the rest of several
    hold: bool = False  # no decode pass: first tokens wait for prompts that can still come with them
    pause: bool = False  # no decode pass in the step of this prefill pass

    def __str__(self) -> str:
        parts = {"preempt": self.preempt, "restart": self.restart, "prefill": self.prefill}
        words = [f"{name} {' '.join(map(str, entries))}" for name, entries in parts.items() if entries]
        words += [] if self.cache_bytes is None else [f"cache {self.cache_bytes}"]
        words += ["compact"] * self.compact + ["hold"] * self.hold + ["pause"] * self.pause
        return "; ".join(words) or "decode"
