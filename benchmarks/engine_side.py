"""The sides without a server: our engine alone and the bare loop, both in one child that holds the model."""

import asyncio
import json
from pathlib import Path
from typing import Any

from benchmarks.child import Child
from benchmarks.failures import Failed
from benchmarks.inside import PLANS, PLAYED
from benchmarks.plans import Plan
from benchmarks.replies import Played


class Inside:
    """The child."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._child: Child | None = None

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    async def start(self) -> None:
        if self.alive:
            return
        self._child = Child("benchmarks.inside", str(self._model), folder=self._folder, talks=True)
        await asyncio.to_thread(self._hear, self._child)

    async def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Raises Failed."""
        if self._child is None:
            raise Failed("it does not run")
        return await asyncio.to_thread(self._say_and_hear, self._child, order)

    def stop(self) -> None:
        if self._child:
            self._child.stop()
            self._child = None

    def _say_and_hear(self, child: Child, order: dict[str, Any]) -> dict[str, Any]:
        assert child.process.stdin
        try:
            child.process.stdin.write(json.dumps(order).encode() + b"\n")
            child.process.stdin.flush()
        except (OSError, ValueError):
            raise Failed(f"it ended: {child.last_words()}") from None
        return self._hear(child)

    def _hear(self, child: Child) -> dict[str, Any]:
        assert child.process.stdout
        line = child.process.stdout.readline()
        if not line:
            raise Failed(f"it ended: {child.last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer


class EngineSide:
    """One of the two; they share the child."""

    def __init__(self, inside: Inside, side: str) -> None:
        self._inside = inside
        self._side = side

    @property
    def alive(self) -> bool:
        return self._inside.alive

    async def start(self) -> None:
        await self._inside.start()

    async def play(self, plan: Plan, seed: str) -> Played:
        order = {"do": "play", "side": self._side, "plan": PLANS.dump_python(plan, mode="json"), "seed": seed}
        answer = await self._inside.ask(order)
        return PLAYED.validate_python(answer["played"])

    def stop(self) -> None:
        self._inside.stop()
