"""What a worker needs from an engine: take a job, step, give what each choice gained.

The engine knows tokens, sequences and caches; it knows no sockets and no HTTP. ``workers.engine.engine`` is the real
one, ``workers.scripted.engine`` one without a model; a test that holds for one holds for the other.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from shared.callers import Asker, asker_of
from shared.key_terms import Priority
from shared.protocol import Capabilities, Delta, Generation, Run
from workers.grammars.grammar import CompiledGrammar
from workers.output.reasoning import ThinkingDelimiters
from workers.output.tool_calls import ToolPolicy


@dataclass(frozen=True)
class Job:
    """A request that can run: tokenized, inside the context, nothing left to refuse.

    ``held`` has per choice the token ids that an earlier attempt already gave; they are replayed through the whole
    output path without being sent, and generation goes on behind them.
    """

    request_id: str
    attempt: int
    api: str
    prompt: list[int]
    generation: Generation
    max_tokens: int  # of each choice, held ones included
    held: list[list[int]] = field(default_factory=list)
    prompt_text: str | None = None  # when echo was asked
    grammar: CompiledGrammar | None = None
    thinking: ThinkingDelimiters | None = None  # when it is to be split off
    thinking_budget: int | None = None  # tokens after which thinking is closed
    thinking_end: list[int] = field(default_factory=list)  # ids that close it
    opened: str | None = None  # the message that the prompt opens, where answers are messages with headers
    tool_policy: ToolPolicy | None = None  # None: text that looks like a call is text
    checkpoints: list[int] = field(default_factory=list)  # prefix lengths worth storing, ascending
    prediction: list[int] = field(default_factory=list)  # ids of what the answer is expected to be like
    speculates: bool = True  # unless the client does not want it
    ends: frozenset[int] = frozenset()  # ids that end it, beside those that end every answer
    caller: str = ""  # who asks, if known
    group: str = ""  # what it came with, if known
    priority: Priority = "normal"  # of its API key

    @property
    def asker(self) -> Asker:
        return asker_of(self.caller, self.group, self.request_id)

    @property
    def scores_prompt(self) -> bool:
        return self.generation.echo and self.generation.logprobs is not None


@dataclass(frozen=True)
class Output:
    """A delta on its way to the api process that asked."""

    api: str
    delta: Delta


@dataclass(frozen=True)
class KvUse:
    """Bytes for keys and values, of one moment. Replaced, never changed: another thread reads it.

    ``obeyed``: the most it may hold: its lease, or what running answers hold beyond that. ``held``: the most that its
    memory had since it last gave any back. ``committed``: what running answers may come to hold; ``kept``: of prompts
    that are kept.
    """

    obeyed: int = 0
    held: int = 0
    committed: int = 0
    kept: int = 0


@dataclass(frozen=True)
class Forgotten:
    """Bytes of kept prompts that are gone. ``reason``: why some are still on disk."""

    memory: int = 0
    disk: int = 0
    reason: str = ""


class Runnable(Protocol):
    """What is known of every request that can run, whatever it asks for."""

    @property
    def request_id(self) -> str: ...
    @property
    def attempt(self) -> int: ...


J = TypeVar("J", bound=Runnable)
Taken = TypeVar("Taken", bound=Runnable, contravariant=True)


class Engine(Protocol[Taken]):
    """One thread calls all of it."""

    @property
    def active(self) -> int:
        """Requests that have not ended, or whose end was not given out yet."""
        ...

    @property
    def report(self) -> dict[str, float | int | str]:
        """Figures for the heartbeat; read by another thread, so it must be cheap and must not wait."""
        ...

    @property
    def kv_use(self) -> KvUse:
        """The memory use after the last step, for the heartbeat."""
        ...

    def lend(self, size: int) -> None:
        """So many bytes may keys and values take from now on: kept prompts give way, then what has to be read again."""
        ...

    def add(self, job: Taken) -> None: ...

    def cancel(self, request_id: str) -> None:
        """Forgets the request; it gives nothing more. Unknown ids are ignored."""
        ...

    def rest(self) -> None:
        """There was nothing to do for a while: memory that is kept only for the next step is given back."""
        ...

    def forget(self, namespace: str | None, done: Callable[[Forgotten], None]) -> None:
        """What is kept of the prompts of a namespace, or of all, is gone when ``done`` is called, on any thread.

        Requests that run go on, and nothing of them is kept any more.
        """
        ...

    def step(self) -> list[Output]:
        """One turn for all requests. Any exception but ServingError means the engine is broken."""
        ...


Prepare = Callable[[Run], Runnable]  # raises ServingError; called on a thread beside the engine's


@dataclass(frozen=True)
class Served(Generic[J]):
    """A model that can serve, and what its requests become."""

    engine: Engine[J]
    prepare: Callable[[Run], J]
    digest: str
    context_length: int
    capabilities: Capabilities | None = None
    context_bytes: int = 0  # keys and values of one sequence as long as the context
    at_end: Callable[[], None] = lambda: None  # called by the engine's thread when all requests have ended
