"""Jobs and runs for tests of the worker's parts."""

from typing import Any

from shared import wire
from shared.key_terms import Priority
from shared.protocol import Generation, Run, RunHeader, Sampling, Stopping, Submit, TextPrompt, TokenPrompt
from workers.grammars.grammar import CompiledGrammar
from workers.job import Job
from workers.output.reasoning import ThinkingDelimiters
from workers.output.tool_calls import ToolPolicy


def job(
    request_id: str = "a",
    prompt: list[int] | None = None,
    *,
    max_tokens: int = 8,
    n: int = 1,
    logprobs: int | None = None,
    held: list[list[int]] | None = None,
    stop: list[str] | None = None,
    min_tokens: int = 0,
    ignore_eos: bool = False,
    namespace: str = "",
    echo: bool = False,
    grammar: CompiledGrammar | None = None,
    thinking: ThinkingDelimiters | None = None,
    tool_policy: ToolPolicy | None = None,
    thinking_budget: int | None = None,
    thinking_end: list[int] | None = None,
    checkpoints: list[int] | None = None,
    caller: str = "",
    group: str = "",
    priority: Priority = "normal",
    prediction: list[int] | None = None,
    speculates: bool = True,
    **sampling: Any,
) -> Job:
    prompt = prompt or [10, 11, 12]
    stopping = Stopping(max_tokens=max_tokens, stop=stop or [], min_tokens=min_tokens, ignore_eos=ignore_eos)
    generation = Generation(
        prompt=TokenPrompt(ids=prompt),
        sampling=Sampling(**{"seed": 1, **sampling}),
        stopping=stopping,
        n=n,
        logprobs=logprobs,
        cache_namespace=namespace,
        echo=echo,
    )
    return Job(
        request_id=request_id,
        attempt=1,
        api="api-1",
        prompt=prompt,
        generation=generation,
        max_tokens=max_tokens,
        held=held or [],
        grammar=grammar,
        thinking=thinking,
        tool_policy=tool_policy,
        thinking_budget=thinking_budget,
        thinking_end=thinking_end or [],
        checkpoints=checkpoints or [],
        prediction=prediction or [],
        speculates=speculates,
        caller=caller,
        group=group,
        priority=priority,
    )


def run(
    request_id: str = "a",
    text: str = "hello",
    *,
    attempt: int = 1,
    n: int = 1,
    max_tokens: int = 8,
    held: list[list[int]] | None = None,
) -> Run:
    generation = Generation(
        prompt=TextPrompt(text=text), sampling=Sampling(seed=1), stopping=Stopping(max_tokens=max_tokens), n=n
    )
    submit = Submit(request_id=request_id, attempt=attempt, model="m", task=generation, held=held or [])
    return Run(api="api-1", submit=submit)


def sent(run: Run) -> tuple[RunHeader, bytes]:
    """The run as a worker receives it."""
    header, body = wire.frames(run)
    return wire.decode(wire.TO_WORKER, header), body
