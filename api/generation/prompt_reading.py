"""Asks a worker to read a prompt and to generate nothing: to count, tokenize or render it."""

from api.generation.broker_client import BrokerClient
from api.http.caller import ANONYMOUS
from shared.protocol import Generation, Prompt, Sampling, Start, Stopping


async def prompt_as_read(broker: BrokerClient, model: str, prompt: Prompt, echo: bool = True) -> Start:
    """What the worker knows of a prompt; with ``echo`` also its ids and its text."""
    stopping = Stopping(max_tokens=0)
    generation = Generation(prompt=prompt, sampling=Sampling(seed=0), stopping=stopping, echo=echo)
    start = Start(prompt_tokens=0)
    async for batch in await broker.generate(
        model, [generation], ANONYMOUS
    ):  # it does not use the prefix cache
        for delta in batch:
            start = delta.start or start
    return start
