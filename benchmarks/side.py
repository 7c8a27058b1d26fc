"""Who can be measured: something that starts, plays plans and stops."""

from typing import Protocol

from benchmarks.plans import Plan
from benchmarks.replies import Played


class Side(Protocol):
    @property
    def alive(self) -> bool: ...

    async def start(self) -> None:
        """Until it answers, warm. Raises Failed."""

    async def play(self, plan: Plan, seed: str) -> Played:
        """Raises Failed."""

    def stop(self) -> None:
        """Also when it was never started, or has died."""
