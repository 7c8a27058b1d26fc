"""What parts of the stack cost by themselves, without another server beside: names, aims, and how each is measured."""

from pydantic import BaseModel

from benchmarks.engine_side import Inside


class Cost(BaseModel):
    """One figure; ``aim`` is the most it should be."""

    what: str
    value: float
    unit: str
    aim: float | None = None


async def engine_step(inside: Inside) -> list[Cost]:
    """Of 32 rows, with a model that gives fixed logits. Raises Failed."""
    await inside.start()
    found: dict[str, dict[str, float]] = (await inside.ask({"do": "step"}))["step"]
    costs = [
        Cost(
            what=f"one step of 32 rows without the model, {kind}",
            value=1000 * (seconds["step"] + seconds["encode"]),
            unit="ms",
            aim=3.0,
        )
        for kind, seconds in found.items()
    ]
    encode = 1000 * found["greedy"]["encode"]
    return [*costs, Cost(what="of these, encoding the message", value=encode, unit="ms")]
