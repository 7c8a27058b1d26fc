"""The last requests that were let in: sizes, times and how each ended; nothing of what they say. Pure.

Rule: a request is one record, however often it is resumed; the earliest one goes when there are too many.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from shared.protocol import RecentRequest, SubmitHeader

REMEMBERED = 50
RESUMES = 8  # reasons kept of one request


@dataclass(slots=True)
class Record:
    """``begun``: when a worker was given it first."""

    submit: SubmitHeader
    asked: float
    begun: float | None = None
    ended: float | None = None
    how: str = ""
    api: str = ""
    worker: str = ""
    tokens: int = 0
    resumes: list[str] = field(default_factory=list)


class RecentRequests:
    def __init__(self) -> None:
        self._records: OrderedDict[str, Record] = OrderedDict()

    def ask(self, api: str, submit: SubmitHeader, now: float) -> Record:
        record = self._records.setdefault(submit.request_id, Record(submit, now))
        record.api, record.ended, record.how, record.worker = api, None, "", ""
        if len(self._records) > REMEMBERED:
            self._records.popitem(last=False)
        return record

    def begin(self, api: str, submit: SubmitHeader, worker: str, now: float) -> None:
        record = self.ask(api, submit, now)
        record.worker = worker
        if record.begun is None:
            record.begun = now

    def resume(self, request_id: str, reason: str) -> None:
        if record := self._records.get(request_id):
            record.resumes = [*record.resumes, reason][-RESUMES:]

    def end(self, request_id: str, how: str, now: float) -> None:
        if (record := self._records.get(request_id)) and record.ended is None:
            record.ended, record.how = now, how

    def end_all_of(self, api: str, how: str, now: float) -> None:
        for request_id, record in self._records.items():
            if record.api == api:
                self.end(request_id, how, now)

    def count(self, request_id: str, tokens: int) -> None:
        """``tokens``: of all its choices, as the api has them."""
        if record := self._records.get(request_id):
            record.tokens = tokens

    def latest(self, now: float) -> list[RecentRequest]:
        """Newest first."""
        return [_report(record, now) for record in reversed(self._records.values())]


def _report(record: Record, now: float) -> RecentRequest:
    submit, begun, ended = record.submit, record.begun, record.ended
    waited_until = next(time for time in (begun, ended, now) if time is not None)
    return RecentRequest(
        request_id=submit.request_id,
        model=submit.model,
        worker=record.worker,
        prompt=submit.prompt,
        size=submit.size,
        max_tokens=submit.max_tokens,
        n=submit.n,
        waited=waited_until - record.asked,
        took=None if begun is None or ended is None else ended - begun,
        ended=record.how,
        tokens=record.tokens or None,
        resumes=record.resumes,
    )
