"""A prompt as a worker reads it: counted, tokenized or rendered, and answered with nothing."""

from api.generation.broker_client import BrokerClient
from api.http.caller import NOBODY
from shared.protocol import Generation, Prompt, Sampling, Start, Stopping


async def prompt_as_read(broker: BrokerClient, model: str, prompt: Prompt, echo: bool = True) -> Start:
    """What the worker knows of a prompt; its ids and text when ``echo`` is asked."""
    stopping = Stopping(max_tokens=0)
    generation = Generation(prompt=prompt, sampling=Sampling(seed=0), stopping=stopping, echo=echo)
    start = Start(prompt_tokens=0)
    async for batch in await broker.generate(model, [generation], NOBODY):  # it looks for nothing kept
        for delta in batch:
            start = delta.start or start
    return start
