"""The requests a worker has accepted: which attempt counts, what is sent, what is retained. Pure.

Rule 1: an entry lives from its Run until the api is done with it, is replaced by a Run that cannot resume it, or fails.
Rule 2: outputs of an attempt that the entry does not run are dropped.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.protocol import Delta, RunHeader
from workers.job import Output
from workers.unacked import UnackedRequest


@dataclass
class DeltaBatch:
    """Deltas for one api process, and the attempts of the requests that end with them, by request id."""

    api: str
    deltas: list[Delta] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=dict)

    def singles(self) -> list["DeltaBatch"]:
        """Splits the batch into one batch per delta; a request ends with the last of its deltas."""
        last = {delta.request_id: at for at, delta in enumerate(self.deltas)}
        return [
            DeltaBatch(self.api, [delta], {id: self.ended[id]} if id in self.ended and last[id] == at else {})
            for at, delta in enumerate(self.deltas)
            for id in (delta.request_id,)
        ]


class AcceptedRequests:
    def __init__(self) -> None:
        self._entries: dict[str, UnackedRequest] = {}

    @property
    def attempts(self) -> dict[str, int]:
        """The api's newest attempt of every entry, by request id."""
        return {request_id: entry.attempt for request_id, entry in self._entries.items()}

    @property
    def active(self) -> int:
        """How many requests have not ended."""
        return sum(not entry.ended for entry in self._entries.values())

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    def resume(self, header: RunHeader) -> DeltaBatch | None:
        """Continues an entry under the header's attempt, and returns what its api lacks.

        None: there is no entry, or it does not join the api's tokens, so the request must be run.
        """
        entry = self._entries.get(header.submit.request_id)
        deltas = entry.resume(header) if entry else None
        if entry is None or deltas is None:
            return None
        ended = {header.submit.request_id: entry.attempt} if entry.ended and deltas else {}
        return DeltaBatch(entry.api, deltas, ended)

    def add(self, header: RunHeader) -> None:
        self._entries[header.submit.request_id] = UnackedRequest(header)

    def remove(self, request_id: str) -> UnackedRequest | None:
        return self._entries.pop(request_id, None)

    def acknowledge(self, request_id: str, choice: int, next_index: int) -> None:
        if entry := self._entries.get(request_id):
            entry.acknowledge(choice, next_index)

    def running(self, request_id: str, attempt: int) -> UnackedRequest | None:
        """The entry that the engine runs under this attempt, unless it has ended or was replaced."""
        entry = self._entries.get(request_id)
        return entry if entry and entry.running == attempt and not entry.ended else None

    def batches(self, outputs: Iterable[Output], now: float) -> list[DeltaBatch]:
        """The outputs of one step by api process, each under its entry's newest attempt."""
        by_api: dict[str, DeltaBatch] = {}
        for output in outputs:
            request_id = output.delta.request_id
            entry = self.running(request_id, output.delta.attempt)
            if entry is None:
                continue
            batch = by_api.setdefault(entry.api, DeltaBatch(entry.api))
            batch.deltas.append(entry.append(output.delta))
            if entry.ended:
                entry.ended_at = now
                batch.ended[request_id] = entry.attempt
        return list(by_api.values())

    def drop_unclaimed(self, before: float) -> None:
        """Removes entries that ended before this time: by then an api waits for them no longer."""
        old = [
            id
            for id, entry in self._entries.items()
            if entry.ended_at is not None and entry.ended_at < before
        ]
        for request_id in old:
            del self._entries[request_id]
