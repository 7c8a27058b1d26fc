"""What is asked: plans as data, the requests each stands for, and the table of workloads. Pure.

Rule 1: every request has its own first words, so that no cache helps, except where a plan is about caches. Rule 2: the
same (plan, seed) gives the same requests, so that all sides are asked the same; another seed gives other requests.
"""

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from cli.bench.figures import some_words


@dataclass(frozen=True)
class ClosedLoop:
    """``clients`` that each ask again as soon as they are answered, until all ``requests`` are made."""

    clients: int
    requests: int
    max_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seeded: bool = False
    shared_words: int = 0  # a prefix that all requests of one play have in common
    models: int = 1  # asked in turns


@dataclass(frozen=True)
class SecondTurn:
    """Conversations of ``words``, one after the other; what counts is the answer to the second question."""

    conversations: int = 2
    words: int = 1000


@dataclass(frozen=True)
class LatePrompt:
    """``clients`` are being answered when a prompt of ``words`` comes; what counts is their gaps from then on."""

    clients: int = 8
    words: int = 2000
    max_tokens: int = 64


@dataclass(frozen=True)
class Decode:
    """No clients: ``rows`` sequences that decode together for ``steps``; prefill does not count."""

    rows: int = 32
    steps: int = 48


Plan = ClosedLoop | SecondTurn | LatePrompt | Decode


@dataclass(frozen=True)
class Ask:
    """A chat completion, whoever serves it. ``model`` counts from 0; messages are (role, content)."""

    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    model: int = 0

    def body(self, models: tuple[str, ...]) -> dict[str, Any]:
        """For a server that knows the models by these names."""
        return {
            "model": models[self.model],
            "messages": [{"role": role, "content": content} for role, content in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({} if self.seed is None else {"seed": self.seed}),
        }


def brief(plan: Plan) -> Plan:
    """The same kind of work, a small part of it: to warm up."""
    match plan:
        case ClosedLoop():
            return replace(plan, requests=plan.clients * plan.models, max_tokens=4)
        case SecondTurn():
            return replace(plan, conversations=1, words=100)
        case LatePrompt():
            return replace(plan, words=200, max_tokens=8)
        case Decode():
            return replace(plan, steps=4)


def closed_loop_asks(plan: ClosedLoop, seed: str) -> list[Ask]:
    random = Random(seed)
    shared = some_words(random, plan.shared_words)
    return [
        Ask(
            messages=(
                ("system", shared or some_words(random, 6)),
                ("user", f"{some_words(random, 3)}: tell me a long story about this."),
            ),
            max_tokens=plan.max_tokens,
            temperature=plan.temperature,
            top_p=plan.top_p,
            seed=random.randrange(1 << 31) if plan.seeded else None,
            model=i % plan.models,
        )
        for i in range(plan.requests)
    ]


def first_turns(plan: SecondTurn, seed: str) -> list[Ask]:
    random = Random(seed)
    return [long_ask(random, plan.words, max_tokens=16) for _ in range(plan.conversations)]


def second_turn(first: Ask, answer: str) -> Ask:
    more = (("assistant", answer), ("user", "Now tell me a long story about all of this."))
    return Ask(messages=first.messages + more, max_tokens=8)


def late_prompt_asks(plan: LatePrompt, seed: str) -> tuple[list[Ask], Ask]:
    """The requests that run, and the one that comes late."""
    running = closed_loop_asks(ClosedLoop(plan.clients, plan.clients, plan.max_tokens), seed)
    return running, long_ask(Random(f"{seed} late"), plan.words, max_tokens=1)


def long_ask(random: Random, words: int, max_tokens: int) -> Ask:
    text = f"Here is a list of words. {some_words(random, words)}. What do these words have in common?"
    return Ask((("system", some_words(random, 6)), ("user", text)), max_tokens)


@dataclass(frozen=True)
class Workload:
    name: str
    title: str
    plan: Plan


SAMPLED = ClosedLoop(8, 16, temperature=0.7, top_p=0.95)
WORKLOADS = (
    Workload("greedy-1", "1 client, greedy", ClosedLoop(1, 3)),
    Workload("greedy-8", "8 clients, greedy", ClosedLoop(8, 16)),
    Workload("greedy-32", "32 clients, greedy", ClosedLoop(32, 64)),
    Workload("sampled-8", "8 clients, temperature 0.7, top_p 0.95", SAMPLED),
    Workload("seeded-8", "the same, each with a seed", replace(SAMPLED, requests=8, seeded=True)),
    Workload("prefix-8", "8 prompts at once that share 300 tokens", ClosedLoop(8, 8, shared_words=300)),
    Workload("second-turn", "second turn of a 1,000-token conversation", SecondTurn()),
    Workload("late-prompt", "8 clients are answered, a 2,000-token prompt comes", LatePrompt()),
    Workload("two-models", "8 clients, two models in turns", ClosedLoop(8, 16, models=2)),
    Workload("decode-32", "32 sequences decode, no clients", Decode()),
)
