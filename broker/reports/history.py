"""What has changed lately in models, workers, downloads, memory and settings, numbered, for who follows it. Pure.

Rule 1: a change is noted when two looks differ, so nothing that changes a state has to remember to say so.
Rule 2: only so many are kept; who has missed more begins anew with the whole status.
"""

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType

from shared.protocol import Change

KEPT = 1000
GONE = "gone"

State = tuple[
    str, str
]  # and what there is to say of it: why a load failed or how far it is, or a worker's model


class History:
    def __init__(self) -> None:
        self._changes: deque[Change] = deque(maxlen=KEPT)
        self._seen: dict[str, dict[str, State]] = {"model": {}, "worker": {}, "download": {}}
        self.latest = 0

    def look(
        self,
        models: Mapping[str, State],
        workers: Mapping[str, State],
        downloads: Mapping[str, State] = MappingProxyType({}),
    ) -> None:
        self._compare("model", models)
        self._compare("worker", workers)
        self._compare("download", downloads)

    def note(self, kind: str, line: str) -> None:
        """What has no state: a decision about memory, a change of the settings."""
        self._add(kind, "", "", line)

    def since(self, serial: int) -> list[Change] | None:
        """None: some that came after it are not kept any more, or it is none of ours."""
        missed = self.latest - serial
        if missed < 0 or missed > len(self._changes):
            return None
        return list(self._changes)[len(self._changes) - missed :]

    def _compare(self, kind: str, now: Mapping[str, State]) -> None:
        before = self._seen[kind]
        for name, (state, detail) in now.items():
            if before.get(name) != (state, detail):
                self._add(kind, name, state, detail)
        for name in before.keys() - now.keys():
            self._add(kind, name, GONE, "")
        self._seen[kind] = dict(now)

    def _add(self, kind: str, name: str, state: str, detail: str) -> None:
        self.latest += 1
        self._changes.append(Change(serial=self.latest, kind=kind, name=name, state=state, detail=detail))
