"""``python -m benchmarks.scheduler``: a thousand clients in simulated time, by our order and first come first served.

The machine is an estimate of an 8B model in 4 bit on a large Apple GPU, so times compare orders and promise nothing.
Clients ask again when they have their answer and have thought.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import pairwise

from benchmarks.simulated_engine import Life, Machine, Planned, Request, Segments, SimulatedEngine
from shared.callers import Asker
from workers.engine.memory.cost import Cost, LayerCost
from workers.engine.scheduling import scheduler
from workers.engine.scheduling.plan import Costs, Limits, Plan, Task, View

MACHINE = Machine(
    Costs(fixed=0.005, per_token=0.0004, per_look=1.5e-8),
    Cost((LayerCost(4096.0),) * 32),  # Llama 8B: 131 kB for each token
    decode=0.012,
    per_row=0.0004,
    per_context=1e-7,
)
SIZE = 60 << 30  # bytes for keys and values
LIMITS = Limits(rows=64, chunk=2048, holds=False)


@dataclass
class Client:
    """``ask`` gives the request of its n-th turn, or None when it has no more."""

    ask: Callable[[int, float], Request | None]
    think: Callable[[], float]


def chat(rng: random.Random, number: int) -> Client:
    """Short questions, some minutes apart; 200 tokens of a system prompt are the same for all."""

    def ask(turn: int, at: float) -> Request:
        name = f"chat{number}.{turn}"
        own = min(int(rng.lognormvariate(5.0, 0.7)) + 20, 1_500)
        return Request(name, f"chat{number}", at, (("chat", 200), (name, own)), rng.randint(40, 220))

    return Client(ask, lambda: rng.expovariate(1 / 180))


def agent(rng: random.Random, number: int) -> Client:
    """A context that grows from some 10,000 to 60,000 tokens, then a new one; 6,000 are the same for all agents."""
    spoken: Segments = ()

    def ask(turn: int, at: float) -> Request:
        nonlocal spoken
        name = f"agent{number}.{turn}"
        if not 0 < sum(tokens for _, tokens in spoken) < 60_000:
            spoken = (("agents", 6_000), (f"{name}.files", rng.randint(2_000, 6_000)))
        more = (f"{name}.result", rng.randint(400, 4_000))
        request = Request(name, f"agent{number}", at, (*spoken, more), rng.randint(60, 300), "agent")
        spoken = request.spoken
        return request

    return Client(ask, lambda: rng.uniform(0.5, 60.0))


def bulk(rng: random.Random, prompts: int) -> Iterator[Client]:
    """One caller, all at once."""
    for number in range(prompts):
        segments = ((f"bulk{number}", rng.randint(300, 1_500)),)
        request = Request(f"bulk{number}", "bulk", 0.0, segments, rng.randint(50, 150), "bulk")

        def ask(turn: int, at: float, request: Request = request) -> Request | None:
            return replace(request, arrival=at) if turn == 0 else None

        yield Client(ask, lambda: 0.0)


def clients(mix: str, seed: int) -> list[Client]:
    rng = random.Random(seed)
    chats, agents, prompts = {"chats": (1_000, 0, 0), "agents": (0, 40, 0), "mixed": (600, 8, 400)}[mix]
    found = [chat(random.Random(rng.random()), number) for number in range(chats)]
    found += [agent(random.Random(rng.random()), number) for number in range(agents)]
    return [*found, *bulk(random.Random(rng.random()), prompts)]


MIXES = {
    "chats": "1,000 chats",
    "agents": "40 agents",
    "mixed": "600 chats, 8 agents, 400 prompts of one caller at once",
}


def play(engine: SimulatedEngine, found: Sequence[Client], seconds: float) -> None:
    arrivals: list[tuple[float, int, int]] = []  # when, client, turn
    asked: dict[str, tuple[int, int]] = {}
    for number, client in enumerate(found):
        heappush(arrivals, (client.think(), number, 0))
    while engine.now < seconds and (arrivals or engine.active):
        if not engine.active:
            engine.now = max(engine.now, arrivals[0][0])
        while arrivals and arrivals[0][0] <= engine.now:
            at, number, turn = heappop(arrivals)
            if request := found[number].ask(turn, at):
                asked[request.id] = number, turn
                engine.submit(request)
        ended = len(engine.ended)
        engine.step()
        for life in engine.ended[ended:]:
            number, turn = asked[life.request.id]
            heappush(arrivals, (engine.now + found[number].think(), number, turn + 1))


# ---------------------------------------------------------------- orders


def by_arrival(view: View, tasks: Sequence[Task], held: Sequence[Asker]) -> list[Task]:
    return sorted(tasks, key=lambda task: task.number)


def first_come(view: View, now: float) -> Plan:
    """The same passes, memory and stalls; only who is next differs."""
    return scheduler.plan(view, now, by_arrival)


def of_one(request: Request) -> Asker:
    return Asker("", "")


def simulated(order: str) -> SimulatedEngine:
    planned: Planned = scheduler.plan
    if order == "first come":
        return SimulatedEngine(MACHINE, SIZE, LIMITS, first_come, of_one)
    return SimulatedEngine(MACHINE, SIZE, LIMITS, planned)


# ---------------------------------------------------------------- the table


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values) or [float("nan")]
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def waits(lives: Iterable[Life], now: float) -> list[float]:
    """For first tokens; a request that waits still has waited until now."""
    return [(life.times[0] if life.times else now) - life.request.arrival for life in lives]


def gaps(lives: Iterable[Life]) -> list[float]:
    return [later - sooner for life in lives for sooner, later in pairwise(life.times) if later > sooner]


def line(engine: SimulatedEngine, mix: str, order: str, kind: str) -> str:
    lives = [life for life in engine.lives.values() if life.request.kind == kind]
    waited, gap = waits(lives, engine.now), gaps(lives)
    figures = [percentile(waited, 0.5), percentile(waited, 0.99), percentile(gap, 0.5), percentile(gap, 0.99)]
    ended = sum(life.request.kind == kind for life in engine.ended)
    return " | ".join(
        ["", mix, order, kind, *(f"{figure:.2f}" for figure in figures), f"{ended} of {len(lives)}", ""]
    )


def table(seconds: float, seed: int) -> None:
    print(
        "| clients | order | of | wait p50 | wait p99 | gap p50 | gap p99 | ended |\n|---|---|---|---|---|---|---|---|"
    )
    planning: list[float] = []
    began = time.perf_counter()
    for mix in MIXES:
        for order in ("ours", "first come"):
            engine = simulated(order)
            play(engine, clients(mix, seed), seconds)
            planning += engine.planning if order == "ours" else []
            for kind in dict.fromkeys(life.request.kind for life in engine.lives.values()):
                print(line(engine, MIXES[mix], order, kind).strip(), flush=True)
    mean, most = 1e3 * sum(planning) / len(planning), 1e3 * percentile(planning, 0.99)
    print(
        f"\n{len(planning)} plans of ours, {mean:.2f} ms of processor each, 99 % within {most:.2f} ms; ",
        end="",
    )
    print(f"{time.perf_counter() - began:.0f} s for {seconds:.0f} s of each mix and order")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="simulated, of each mix and order")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    table(given.seconds, given.seed)
