"""The places at a hosted server: which requests have one. Pure; fulfils the contract of ``workers.job.Engine``.

A request gets its place at once, as the broker sends no more than the server may have, and keeps it until its api is
done with it. So none of them is active: there is nothing to step for.
"""

from collections.abc import Callable
from dataclasses import dataclass

from shared.kinds import asked_of, wrong_kind
from shared.protocol import Delta, Hosted, Place, Run
from workers.job import Forgotten, KvUse, Output


@dataclass(frozen=True)
class PlaceJob:
    request_id: str
    attempt: int
    api: str


def prepare_place(run: Run) -> PlaceJob:
    """Raises WrongKind."""
    submit = run.submit
    if not isinstance(submit.task, Hosted):
        kind = getattr(submit.task, "kind", "text")
        refusal = wrong_kind(submit.model, "hosted", asked_of(kind, None))
        assert refusal
        raise refusal
    return PlaceJob(submit.request_id, submit.attempt, run.api)


class Places:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._new: list[PlaceJob] = []
        self._taken: set[str] = set()
        self._kv_use = KvUse()

    @property
    def taken(self) -> int:
        return len(self._taken)

    @property
    def active(self) -> int:
        return len(self._new)

    @property
    def report(self) -> dict[str, float | int | str]:
        return {"phase": "hosting", "rows": len(self._taken)}

    @property
    def kv_use(self) -> KvUse:
        """What its server holds is its base."""
        return self._kv_use

    def lend(self, size: int) -> None:
        self._kv_use = KvUse(obeyed=size)

    def add(self, job: PlaceJob) -> None:
        self._taken.add(job.request_id)
        self._new.append(job)

    def cancel(self, request_id: str) -> None:
        self._taken.discard(request_id)
        self._new = [job for job in self._new if job.request_id != request_id]

    def forget(self, namespace: str | None, done: Callable[[Forgotten], None]) -> None:
        """Its server keeps prompts in its own way, of which nothing is known here."""
        done(Forgotten())

    def rest(self) -> None:
        """There is no memory to give back."""

    def step(self) -> list[Output]:
        new, self._new = self._new, []
        return [
            Output(job.api, Delta(request_id=job.request_id, attempt=job.attempt, index=0, place=self._place))
            for job in new
        ]
