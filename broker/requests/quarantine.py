"""Requests that crash workers: which are suspects, which run on probation, which are quarantined.

Rule 1: after one crash nothing is suspected; what ran in a second crash, of another worker, becomes a suspect.
Rule 2: a suspect runs alone, or beside cleared requests, until it has gained some tokens: it is on probation.
Rule 3: a crash during a probation quarantines the request on probation and suspects nothing else.
Rule 4: a request of a hosted model, which is tried twice only, is a suspect after its first crash.
Rule 5: a quarantined request is refused for ten minutes, whoever sends it and with whatever seed.
"""

from collections.abc import Collection
from dataclasses import replace

from broker.workers.registry import Running, Worker
from shared.protocol import Ack

PROBATION_TOKENS = 8
_QUARANTINE = 600.0  # seconds
_REMEMBERED = 4096  # request ids


class Quarantine:
    def __init__(self) -> None:
        self._crashed_once: dict[str, None] = {}  # request ids in the order of their crash
        self._suspects: dict[str, None] = {}
        self._quarantined: dict[bytes, float] = {}  # fingerprint -> until when

    def is_suspect(self, request_id: str) -> bool:
        return request_id in self._suspects

    def is_quarantined(self, fingerprint: bytes, now: float) -> bool:
        return self._quarantined.get(fingerprint, 0.0) > now

    def note_crash(self, worker: Worker, runs: dict[str, Running], now: float) -> str | None:
        """Returns the id of the request that is quarantined for it, if one is."""
        if worker.on_probation is None:
            self._suspect(runs)
            return None
        self._quarantine(runs[worker.on_probation].fingerprint, now)
        return worker.on_probation

    def note_progress(self, worker: Worker, ack: Ack) -> None:
        """A suspect that has gained some tokens is cleared, and the next one may run."""
        if worker.on_probation == ack.request_id:
            run = worker.in_flight[ack.request_id]
            held = run.shape.held[ack.choice] if ack.choice < len(run.shape.held) else 0
            if ack.next_index >= held + PROBATION_TOKENS:
                worker.on_probation = None
                worker.in_flight[ack.request_id] = replace(run, cleared=True)
                self._clear(ack.request_id)

    def _suspect(self, runs: dict[str, Running]) -> None:
        if any(request_id in self._crashed_once for request_id in runs):
            _remember(self._suspects, runs)
        _remember(self._suspects, [request_id for request_id, run in runs.items() if run.hosted])
        _remember(self._crashed_once, runs)

    def _clear(self, request_id: str) -> None:
        self._suspects.pop(request_id, None)
        self._crashed_once.pop(request_id, None)

    def _quarantine(self, fingerprint: bytes, now: float) -> None:
        self._quarantined = {one: until for one, until in self._quarantined.items() if until > now}
        self._quarantined[fingerprint] = now + _QUARANTINE


def _remember(known: dict[str, None], request_ids: Collection[str]) -> None:
    known.update(dict.fromkeys(request_ids))
    while len(known) > _REMEMBERED:
        del known[next(iter(known))]
