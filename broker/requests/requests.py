"""What becomes of each request: submitted, queued, claimed, dispatched, acknowledged, cancelled, answered.

Rule 1: a request is in one place: one queue, or one worker's ``in_flight``. The code that takes it out answers for it.
Rule 2: a request that a worker retains goes on there, ahead of the queue.
Rule 3: an attempt that is not newer than the one on record is dropped.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from broker.events import Action, TellApi, TellWorker
from broker.reports.counts import Counts
from broker.reports.recent_requests import RecentRequests
from broker.requests.admission import Admission, draining, outdated_api
from broker.requests.moves import moving
from broker.requests.quarantine import Quarantine
from broker.requests.scheduler import Queued, Scheduler
from broker.workers.crash_reports import shape_of
from broker.workers.exit_causes import ExitCause, Fault
from broker.workers.registry import Registry, Retained, Running, Worker
from shared.errors import KeyLimitReached, QueueFull, RequestCrashedEngine, ServingError
from shared.prefix_path import points_of
from shared.protocol import (
    Ack,
    Cancel,
    Done,
    Failure,
    Forward,
    Refused,
    Resubmit,
    RunHeader,
    SubmitHeader,
)

FINISHED, CANCELLED = "finished", "cancelled"


class Requests:
    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        admission: Admission,
        quarantine: Quarantine,
        retention: float,
        counts: Counts,
    ) -> None:
        """``retention``: seconds for which a request that no api has claimed stays on record."""
        self.recent = RecentRequests()
        self._registry = registry
        self._scheduler = scheduler
        self._admission = admission
        self._quarantine = quarantine
        self._retention = retention
        self._counts = counts

    # ---------------------------------------------------------------- what an api says

    def submit(self, api: str, submit: SubmitHeader, body: bytes, now: float) -> Iterator[Action]:
        if submit.attempt <= self._attempt_on_record(submit.request_id):
            return
        self._scheduler.take(submit.request_id)
        keys = self._admission.keys
        queued = Queued(api, submit, body, now, self._quarantine.is_suspect(submit.request_id))
        if not body:
            yield refuse(queued, outdated_api())
        elif worker := self._registry.runner(submit.request_id):
            keys.let_in(api, submit, now)
            yield self.dispatch(queued, worker, now)
        elif self._registry.holders(submit.request_id):
            keys.let_in(api, submit, now)
            yield from self._claim(queued, now)
        elif objection := self._admission.objection(queued, now):
            if isinstance(objection, KeyLimitReached):
                keys.note_refusal(submit, now)
            yield refuse(queued, objection)
        else:
            keys.let_in(api, submit, now)
            self.recent.ask(api, submit, now)
            self._scheduler.add(queued)

    def acknowledge(self, ack: Ack) -> Iterator[Action]:
        if worker := self._registry.runner(ack.request_id):
            self._quarantine.note_progress(worker, ack)
            if ack.next_index:
                run = worker.in_flight[ack.request_id]
                worker.in_flight[ack.request_id] = replace(run, begun=True)
            yield TellWorker(worker.id, ack)

    def finish(self, done: Done, now: float) -> Iterator[Action]:
        """The api has all of it. One that still runs is of a hosted model, and ends with this."""
        self.recent.count(done.request_id, done.tokens)
        if worker := self._registry.runner(done.request_id):
            run = worker.drop(done.request_id)
            self.recent.end(done.request_id, FINISHED, now)
            if run and run.attempt == 1:
                self._scheduler.note_duration(worker.model, now - run.since)
            yield TellWorker(worker.id, done)
        for worker in self._registry.holders(done.request_id):
            yield from self._release(worker, done.request_id, done)

    def cancel(self, cancel: Cancel, now: float) -> Iterator[Action]:
        self._scheduler.take(cancel.request_id)
        self.recent.end(cancel.request_id, CANCELLED, now)
        yield from self._cancel_run(cancel.request_id)
        for worker in self._registry.holders(cancel.request_id):
            yield from self._release(worker, cancel.request_id, cancel)

    def cancel_all_of(self, api: str) -> Iterator[Action]:
        self._scheduler.withdraw(lambda queued: queued.api == api)
        running = [id for worker in self._registry for id, run in worker.in_flight.items() if run.api == api]
        for request_id in running:
            yield from self._cancel_run(request_id)

    # ---------------------------------------------------------------- runs

    def dispatch(self, queued: Queued, worker: Worker, now: float) -> Action:
        submit = queued.submit
        if not queued.resumes:
            self._counts.queue_times[submit.model].note(now - queued.came)
        worker.retained.pop(submit.request_id, None)
        hosted = submit.prompt == "hosted"
        run = Running(queued.api, queued.asker.caller, shape_of(submit), now, hosted=hosted)
        if queued.suspect and worker.on_probation in (None, submit.request_id):
            run = replace(run, fingerprint=submit.fingerprint)
            worker.on_probation = submit.request_id
        worker.in_flight[submit.request_id] = run
        worker.kept.note(points_of(submit.path))
        self.recent.begin(queued.api, submit, worker.id, now)
        worker.wanted_at = now
        return TellWorker(worker.id, RunHeader(api=queued.api, submit=submit), queued.body)

    def retain(self, worker: Worker, held: dict[str, int], now: float) -> Iterator[Action]:
        """``held`` (request id -> attempt) is what the worker runs or keeps for an earlier broker."""
        for request_id, attempt in held.items():
            worker.retained[request_id] = Retained(attempt, now + self._retention, ended=False)
            if queued := self._scheduler.take(request_id):
                yield from self._claim(queued, now)

    def note_ends(self, worker: Worker, forward: Forward, now: float) -> None:
        """The worker retains what has ended until its api has all of it."""
        for request_id, attempt in forward.ended.items():
            run = worker.in_flight.get(request_id)
            if run and run.attempt == attempt:
                worker.drop(request_id)
                self.recent.end(request_id, FINISHED, now)
                if attempt == 1:  # a later attempt runs for a part of the request only
                    self._scheduler.note_duration(worker.model, now - run.since)
                worker.retained[request_id] = Retained(attempt, now + self._retention, ended=True)

    def fail(self, worker: Worker, request_id: str, failure: Failure) -> Action:
        run = worker.in_flight[request_id]
        worker.drop(request_id)
        return TellApi(run.api, Refused(request_id=request_id, attempt=run.attempt, failure=failure))

    def hand_over(self, worker: Worker, request_id: str, cause: ExitCause) -> Action:
        """The request comes again, unless the broker stops."""
        run = worker.in_flight[request_id]
        worker.drop(request_id)
        if self._admission.closed:
            return _refusal(run.api, request_id, run.attempt, draining())
        self.recent.resume(request_id, f"its worker {cause.how}")
        again = Resubmit(
            request_id=request_id,
            attempt=run.attempt,
            reason=f"its worker {cause.how}",
            blameless=cause.fault is Fault.NONE,
        )
        return TellApi(run.api, again)

    def even_out(self, now: float) -> Iterator[Action]:
        """Requests that wait within a worker go to another one that has room."""
        for worker_id, leaving in moving(self._registry, now).items():
            worker = self._registry.get(worker_id)
            assert worker
            worker.moved = now
            for request_id in leaving:
                yield TellWorker(worker_id, Cancel(request_id=request_id))
                yield self.hand_over(worker, request_id, ExitCause("has others before it", Fault.NONE))

    def lose_worker(self, worker: Worker, cause: ExitCause, now: float) -> Iterator[Action]:
        """Answers for all that it ran."""
        crashed = cause.fault is Fault.CRASH
        culprit = self._quarantine.note_crash(worker, worker.in_flight, now) if crashed else None
        for request_id, run in list(worker.in_flight.items()):
            if request_id == culprit:
                worker.drop(request_id)
                error = RequestCrashedEngine(f"The engine crashes over this request: it {cause.how}.")
                yield _refusal(run.api, request_id, run.attempt, error)
            else:
                yield self.hand_over(worker, request_id, cause)

    # ---------------------------------------------------------------- what waits

    def refuse_waiting(self, chosen: Callable[[Queued], bool], error: ServingError) -> Iterator[Action]:
        for queued in self._scheduler.withdraw(chosen):
            yield refuse(queued, error)

    def refuse_model(self, model: str, error: ServingError) -> Iterator[Action]:
        yield from self.refuse_waiting(lambda queued: queued.submit.model == model, error)

    def note_refusal(self, refused: Refused, now: float) -> None:
        """Whatever refused it."""
        self._admission.keys.end(refused.request_id)
        self.recent.end(refused.request_id, refused.failure.code, now)

    def expire(self, now: float, coming: Collection[str] = ()) -> Iterator[Action]:
        """``coming``: models that are fetched or have to be."""
        for worker in self._registry:
            for request_id in [id for id, retained in worker.retained.items() if retained.until < now]:
                yield from self._release(worker, request_id, Cancel(request_id=request_id))
        self._admission.keys.expire(self._on_record, now - self._retention)
        for queued in self._scheduler.expire(self._registry, now, coming):
            model = queued.submit.model
            limit = self._scheduler.patience(model, self._registry)
            what = "No worker of {} had room" if self._registry.ready(model) else "There was no memory for {}"
            message = f"{what.format(repr(model))} within {limit:g} s."
            seconds = self._scheduler.retry_after(queued.submit, self._registry, now)
            yield refuse(queued, QueueFull(message, retry_after=seconds))

    # ---------------------------------------------------------------- inside

    def _on_record(self) -> set[str]:
        """All requests that wait, run or are retained."""
        found = {queued.submit.request_id for queued in self._scheduler}
        return found.union(*(worker.in_flight.keys() | worker.retained.keys() for worker in self._registry))

    def _attempt_on_record(self, request_id: str) -> int:
        """0: there is none."""
        if queued := self._scheduler.find(request_id):
            return queued.submit.attempt
        if worker := self._registry.runner(request_id):
            return worker.in_flight[request_id].attempt
        holders = self._registry.holders(request_id)
        return holders[0].retained[request_id].attempt if holders else 0

    def _claim(self, queued: Queued, now: float) -> Iterator[Action]:
        """The holder of the newest attempt goes on; the others drop the request."""
        request_id = queued.submit.request_id
        newest, *others = self._registry.holders(request_id)
        yield self.dispatch(queued, newest, now)
        for worker in others:
            yield from self._release(worker, request_id, Cancel(request_id=request_id))

    def _cancel_run(self, request_id: str) -> Iterator[Action]:
        """Its place is free at once: a worker reads the Cancel before the Run that takes the place."""
        if worker := self._registry.runner(request_id):
            worker.drop(request_id)
            yield TellWorker(worker.id, Cancel(request_id=request_id))

    def _release(self, worker: Worker, request_id: str, word: Done | Cancel) -> Iterator[Action]:
        if worker.retained.pop(request_id, None):
            yield TellWorker(worker.id, word)


def refuse(queued: Queued, error: ServingError) -> TellApi:
    return _refusal(queued.api, queued.submit.request_id, queued.submit.attempt, error)


def _refusal(api: str, request_id: str, attempt: int, error: ServingError) -> TellApi:
    return TellApi(api, Refused(request_id=request_id, attempt=attempt, failure=error.to_failure()))
