"""Requests that kill workers: who is charged, tried and convicted.

Rule 1: one crash charges all that ran; only a second one, of another worker, makes them suspects.
Rule 2: a suspect runs alone, or beside suspects that are proven, until it has gained some tokens: it is on trial.
Rule 3: a crash during a trial convicts who is on trial and charges nobody else.
Rule 4: what was convicted is refused for a while when it comes again, whoever sends it and with whatever seed.
"""

from collections.abc import Collection
from dataclasses import replace

from broker.registry import Running, Worker
from shared.protocol import Ack

TRIAL_TOKENS = 8
_SENTENCE = 600.0
_REMEMBERED = 4096


class Suspects:
    def __init__(self) -> None:
        self._charged: dict[str, None] = {}  # request ids in the order of their crash
        self._suspected: dict[str, None] = {}
        self._convicted: dict[bytes, float] = {}  # until when

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._suspected

    def charge(self, request_ids: Collection[str]) -> None:
        """They ran together when their worker crashed."""
        if any(request_id in self._charged for request_id in request_ids):
            _remember(self._suspected, request_ids)
        _remember(self._charged, request_ids)

    def acquit(self, request_id: str) -> None:
        self._suspected.pop(request_id, None)
        self._charged.pop(request_id, None)

    def convict(self, fingerprint: bytes, now: float) -> None:
        self._convicted = {one: until for one, until in self._convicted.items() if until > now}
        self._convicted[fingerprint] = now + _SENTENCE

    def is_convicted(self, fingerprint: bytes, now: float) -> bool:
        return self._convicted.get(fingerprint, 0.0) > now

    def blame(self, worker: Worker, runs: dict[str, Running], now: float) -> str | None:
        """Who is convicted, if anybody is."""
        if worker.trial is None:
            self.charge(runs)
            return None
        self.convict(runs[worker.trial].fingerprint, now)
        return worker.trial

    def weigh(self, worker: Worker, ack: Ack) -> None:
        """A suspect that has gained some tokens is proven, and the next may come."""
        if worker.trial == ack.request_id:
            run = worker.in_flight[ack.request_id]
            held = run.shape.held[ack.choice] if ack.choice < len(run.shape.held) else 0
            if ack.next_index >= held + TRIAL_TOKENS:
                worker.trial = None
                worker.in_flight[ack.request_id] = replace(run, proven=True)
                self.acquit(ack.request_id)


def _remember(known: dict[str, None], request_ids: Collection[str]) -> None:
    known.update(dict.fromkeys(request_ids))
    while len(known) > _REMEMBERED:
        del known[next(iter(known))]
