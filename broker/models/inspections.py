"""Which models a child process has looked at before anything of them is loaded, one at a time. Pure.

Rule 1: each model is inspected once, and again when its settings have changed; those that requests wait for first.
Rule 2: a model is not started before it was inspected, as its size is not known until then. An inspection that fails
    or takes too long says nothing, and the model is started all the same.
"""

from collections.abc import Collection, Iterable

from shared.protocol import Inspection


class Inspections:
    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._begun: set[str] = set()  # and not to be repeated
        self._running: str | None = None
        self.found: dict[str, Inspection] = {}  # the last of each model

    def next(self, models: Collection[str], wanted: Iterable[str]) -> str | None:
        """The model to inspect now, which is then taken to be running."""
        if not self._enabled or self._running is not None:
            return None
        self._running = next((model for model in (*wanted, *models) if self.awaits(model)), None)
        if self._running is not None:
            self._begun.add(self._running)
        return self._running

    def awaits(self, model: str) -> bool:
        return self._enabled and (model not in self._begun or model == self._running)

    def finish(self) -> None:
        self._running = None

    def repeat(self, models: Iterable[str]) -> None:
        """Also one that runs, which may have read the settings of before."""
        self._begun.difference_update(models)
