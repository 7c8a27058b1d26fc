"""Whether a request gets the same tokens alone, in company, and behind a prefix that was kept of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from shared.protocol import Generation, Run, Sampling, Stopping, Submit, TextPrompt
from workers.job import Job, Served

TEXTS = (
    "A stone bridge crosses the river behind the old mill, and in summer",
    "The quickest way to sharpen a kitchen knife is to hold it flat and then",
    "In the year when the harbour froze, the fishermen of the island",
    "Three apples and four pears cost as much as five oranges, so one",
)
REPEATS = 4  # of each text in its prompt, so that it is long enough to be kept


@dataclass
class GeneratedAnswer:
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    cached: int = 0  # tokens of its prompt that were not read again


@dataclass(frozen=True)
class Parity:
    """Of two ways to run the same requests. ``difference``: the largest of log-probabilities, while ids are equal."""

    requests: int
    equal: int
    tokens: int
    difference: float


def requests(served: Served[Job], tokens: int, name: str, *, scoped: bool) -> list[Job]:
    """Half of them greedy, half sampled. ``scoped``: nothing that others have read is found."""
    return [
        _job(served, text, tokens, f"{name}{number}", name if scoped else "", sampled=number % 2 == 1)
        for number, text in enumerate(TEXTS)
    ]


def _job(served: Served[Job], text: str, tokens: int, id: str, scope: str, *, sampled: bool) -> Job:
    generation = Generation(
        prompt=TextPrompt(text=" ".join([text] * REPEATS)),
        sampling=Sampling(seed=7, temperature=0.8 if sampled else 0.0, top_p=0.95),
        stopping=Stopping(max_tokens=tokens, ignore_eos=True),
        logprobs=1,
        cache_namespace=scope,
    )
    submit = Submit(request_id=id, attempt=1, model="self", task=generation)
    return served.prepare(Run(api="self", submit=submit))


def play(served: Served[Job], together: Iterable[Job]) -> list[GeneratedAnswer]:
    """All at once; the answers in their order."""
    jobs = list(together)
    found = {job.request_id: GeneratedAnswer() for job in jobs}
    for job in jobs:
        served.engine.add(job)
    while served.engine.active:
        for output in served.engine.step():
            delta = output.delta
            answer = found[delta.request_id]
            answer.ids += delta.ids
            answer.logprobs += [each.logprob for each in delta.logprobs or ()]
            if delta.start:
                answer.cached = delta.start.cached_tokens
    return [found[job.request_id] for job in jobs]


def compared(ones: Sequence[GeneratedAnswer], others: Sequence[GeneratedAnswer]) -> Parity:
    difference = 0.0
    for one, other in zip(ones, others, strict=True):
        for at, (mine, theirs) in enumerate(zip(one.logprobs, other.logprobs, strict=False)):
            if one.ids[: at + 1] != other.ids[: at + 1]:
                break
            difference = max(difference, abs(mine - theirs))
    equal = sum(one.ids == other.ids for one, other in zip(ones, others, strict=True))
    return Parity(len(ones), equal, sum(len(one.ids) for one in ones), difference)


def parity(served: Served[Job], tokens: int) -> dict[str, Parity | int]:
    """Raises what the engine raises. ``cached_tokens``: of prompts, in the third way."""
    alone = [play(served, [job])[0] for job in requests(served, tokens, "alone", scoped=True)]
    batched = play(served, requests(served, tokens, "batched", scoped=True))
    kept = requests(served, tokens, "kept", scoped=True)
    play(served, kept)
    again = [replace(job, request_id=f"again{number}") for number, job in enumerate(kept)]
    cached = [play(served, [job])[0] for job in again]
    return {
        "batched": compared(alone, batched),
        "cached": compared(alone, cached),
        "cached_tokens": sum(answer.cached for answer in cached),
    }
