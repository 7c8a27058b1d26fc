"""What speculation gives: the same requests to the same engine with and without, in turns, on the embedded model.

    python -m benchmarks.speculation            # some minutes on two cores
    python -m benchmarks.speculation edit json  # some of it

Each answer is compared as well: speculation may change the time and nothing else.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.models import EMBEDDED_MODEL, ModelSource
from shared.protocol import ChatPrompt, Generation, Grammar, Run, Sampling, Stopping, Submit
from shared.settings import Settings
from workers.engine.cpu.allocator import keep_freed_memory
from workers.engine.cpu.blas import open_blas
from workers.job import Job, Served

ROUNDS = 3
TOKENS = 96
FILE = "\n".join(
    f"def area_{i}(width: float, height: float) -> float:\n    return width * height * {i}\n"
    for i in range(20)
)
SCHEMA = {
    "type": "object",
    "properties": {
        "first_name": {"type": "string", "maxLength": 20},
        "family_name": {"type": "string", "maxLength": 20},
        "date_of_birth": {"type": "string", "format": "date"},
        "is_customer": {"type": "boolean"},
        "number_of_orders": {"type": "integer"},
        "favourite_colour": {"enum": ["red", "green", "blue"]},
    },
    "required": [
        *("first_name", "family_name", "date_of_birth"),
        *("is_customer", "number_of_orders", "favourite_colour"),
    ],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Workload:
    name: str
    clients: int
    said: Callable[[int], str]  # by client
    tokens: int = TOKENS
    grammar: Grammar | None = None
    predicted: bool = False

    def generation(self, client: int, seed: int) -> Generation:
        messages = [{"role": "user", "content": self.said(client)}]
        return Generation(
            prompt=ChatPrompt(messages=messages),
            sampling=Sampling(seed=seed, temperature=0.0),
            stopping=Stopping(max_tokens=self.tokens),
            grammar=self.grammar,
            prediction=FILE if self.predicted else "",
        )


AREAS = (
    7,
    2,
    5,
    11,
)  # whose edits this model makes by copying most of the file; asked for others it writes prose


def edit(client: int) -> str:
    area = AREAS[client % len(AREAS)]
    return f"(0) Rename area_{area} to volume_{area}. Give me the whole file and nothing else.\n\n{FILE}"


def of_each(said: str) -> Callable[[int], str]:
    return lambda client: f"({client}) {said}"


WORKLOADS = [
    *(Workload("edit", clients, edit) for clients in (1, 4)),
    Workload("edit, predicted", 1, edit, predicted=True),
    Workload("json", 1, of_each("Invent a customer."), grammar=Grammar(json_schema=SCHEMA)),
    *(
        Workload("prose", clients, of_each("Tell me about the sea in autumn."), tokens=48)
        for clients in (1, 8, 32)
    ),
]


def main(names: list[str]) -> None:
    open_blas(Settings().blas)
    keep_freed_memory()
    from workers.model.serve_model import load_engine  # mlx is imported from here on

    source = ModelSource(id=EMBEDDED_MODEL, kind="embedded", location="")
    served = load_engine(source, Settings(speculation="on"), lambda *_: None)
    print(
        f"{'workload':<18}{'clients':>8}{'off':>9}{'on':>9}{'ratio':>8}{'of cpu':>8}{'accepted':>10}{'drafted':>9}"
    )
    for workload in WORKLOADS:
        if not names or any(workload.name.startswith(name) for name in names):
            print(measured(served, workload), flush=True)


def measured(served: Served[Any], workload: Workload) -> str:
    rates: dict[bool, list[float]] = {True: [], False: []}
    efforts: dict[bool, list[float]] = {True: [], False: []}  # tokens per second of processor time
    before = dict(served.engine.report)
    for round in range(ROUNDS):
        answers = {}
        for on in (round % 2 == 0, round % 2 == 1):
            began, used = time.perf_counter(), time.process_time()
            answers[on] = play(served, workload, round, on)
            tokens = sum(map(len, answers[on]))
            rates[on].append(tokens / (time.perf_counter() - began))
            efforts[on].append(tokens / (time.process_time() - used))
        assert answers[True] == answers[False], "speculation changed an answer"
    slow, fast = (statistics.median(rates[each]) for each in (False, True))
    after = served.engine.report
    accepted, drafted = (int(after[key]) - int(before[key]) for key in ("accepted_tokens", "drafted_tokens"))
    effort = statistics.median(efforts[True]) / statistics.median(efforts[False])
    figures = f"{slow:>9.1f}{fast:>9.1f}{fast / slow:>8.2f}{effort:>8.2f}{accepted:>10}{drafted:>9}"
    return f"{workload.name:<18}{workload.clients:>8}{figures}"


def play(served: Served[Any], workload: Workload, round: int, on: bool) -> list[list[int]]:
    jobs = [job(served, workload, client, round, on) for client in range(workload.clients)]
    ids: dict[str, list[int]] = {each.request_id: [] for each in jobs}
    for each in jobs:
        served.engine.add(each)
    while served.engine.active:
        for output in served.engine.step():
            ids[output.delta.request_id] += output.delta.ids
    return list(ids.values())


def job(served: Served[Any], workload: Workload, client: int, round: int, on: bool) -> Job:
    generation = workload.generation(client, round)
    name = f"{workload.name} {client} {round} {on}"
    spaced = generation.model_copy(update={"cache_namespace": name, "speculate": on})
    prepared: Job = served.prepare(
        Run(api="", submit=Submit(request_id=name, attempt=1, model="", task=spaced))
    )
    return prepared


if __name__ == "__main__":
    main(sys.argv[1:])
