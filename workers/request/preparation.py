"""Decodes and prepares requests on threads beside the engine, each under a deadline.

Rule 1: whatever a library raises, each request is answered once: with a job, with a failure, or by being given up.
Rule 2: a short request never waits for a long one, and callers take turns.
Rule 3: a request that exceeds its time is given up. Its thread is told to end, and another takes its place; a thread
that hangs in a library and does not end is counted as ``stuck``.
"""

import ctypes
import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from shared import wire
from shared.callers import Asker, asker_of
from shared.errors import InvalidRequest, ServingError
from shared.fair_queue import FairQueue
from shared.kinds import wrong_kind
from shared.protocol import Failure, Generation, Run, RunHeader
from workers.job import Prepare, Runnable

log = logging.getLogger(__name__)

THREADS = 4
LONG_AT_ONCE = 2  # of these threads; the others serve short requests
LONG = 64 << 10  # bytes of a body; a shorter one is decoded and tokenized in milliseconds

Answer = Callable[[RunHeader, Runnable | Failure], None]  # called on a preparing thread


class Overrun(BaseException):
    """Raised in the thread whose request was given up. Not an Exception, so no template or library catches it."""


@dataclass(eq=False)
class Task:
    header: RunHeader
    body: bytes
    began: float = 0.0  # set when a thread takes it
    param: str | None = None  # the field of the prompt, once the body is decoded

    @property
    def asker(self) -> Asker:
        submit = self.header.submit
        return asker_of(submit.caller, submit.group, submit.request_id)

    @property
    def long(self) -> bool:
        return len(self.body) >= LONG


class PreparationPool:
    """``limit``: seconds a thread may spend on one request."""

    def __init__(self, prepare: Prepare, answer: Answer, limit: float) -> None:
        self._prepare = prepare
        self._answer = answer
        self._limit = limit
        self._changed = threading.Condition()  # guards all fields below
        self._short: FairQueue[Task] = FairQueue()
        self._long: FairQueue[Task] = FairQueue()
        self._running: dict[Task, threading.Thread] = {}
        self._given_up: list[threading.Thread] = []
        for _ in range(THREADS):
            self._start_thread()

    def submit(self, header: RunHeader, body: bytes) -> None:
        task = Task(header, body)
        with self._changed:
            self._queue(task).put(task)
            self._changed.notify_all()

    def withdraw(self, request_id: str) -> bool:
        """Returns whether the request was still queued; then it is not answered."""
        with self._changed:
            for queue in (self._short, self._long):
                for task in queue:
                    if task.header.submit.request_id == request_id:
                        queue.remove(task)
                        return True
        return False

    def give_up_overdue(self, now: float) -> list[tuple[RunHeader, Failure]]:
        """Gives up the requests that exceeded their time and returns their failures; they are not answered."""
        with self._changed:
            overdue = [task for task in self._running if now - task.began > self._limit]
            for task in overdue:
                thread = self._running.pop(task)
                _raise_in(thread, Overrun)
                self._given_up.append(thread)
                self._start_thread()
            return [(task.header, overrun_failure(task.param, self._limit)) for task in overdue]

    def forgive(self, seconds: float) -> None:
        """Extends all deadlines by the time for which this process was stopped."""
        with self._changed:
            for task in self._running:
                task.began += seconds

    @property
    def stuck(self) -> int:
        """How many threads were given up and have not ended."""
        self._given_up = [thread for thread in self._given_up if thread.is_alive()]
        return len(self._given_up)

    # ------------------------------------------------------------ on the preparing threads

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, name="prepare", daemon=True).start()

    def _work(self) -> None:
        try:
            while self._finish(task := self._next(), outcome_of(self._prepare, task)):
                pass
        except Overrun:
            pass

    def _next(self) -> Task:
        with self._changed:
            while (queue := self._served_next()) is None:
                self._changed.wait()
            task = next(queue.heads())
            queue.take(task)
            task.began = time.monotonic()
            self._running[task] = threading.current_thread()
            return task

    def _served_next(self) -> FairQueue[Task] | None:
        """The long queue if no long request is running, else the short one first."""
        long_running = sum(task.long for task in self._running)
        if self._long and not long_running:
            return self._long
        if self._short:
            return self._short
        return self._long if self._long and long_running < LONG_AT_ONCE else None

    def _finish(self, task: Task, outcome: Runnable | Failure) -> bool:
        """Answers the request and returns True, or returns False if it was given up meanwhile."""
        with self._changed:
            if self._running.pop(task, None) is None:
                _raise_in(threading.current_thread(), None)  # cancels an Overrun that was not raised yet
                return False
            self._changed.notify_all()
        self._answer(task.header, outcome)
        return True

    def _queue(self, task: Task) -> FairQueue[Task]:
        return self._long if task.long else self._short


def outcome_of(prepare: Prepare, task: Task) -> Runnable | Failure:
    """Any exception but ServingError is a bug; it fails this request and no other."""
    request_id = task.header.submit.request_id
    try:
        run = wire.opened(task.header, task.body)
        task.param = run.submit.task.param
        return prepare(run)
    except ServingError as error:
        return error.to_failure()
    except wire.ProtocolError as error:
        log.error("the body of request %s cannot be decoded: %s", request_id, error)
        return ServingError(
            "The worker cannot decode this request: api and worker may differ in version."
        ).to_failure()
    except Overrun:
        raise
    except BaseException as error:  # noqa: BLE001 - pyo3 raises a panic in Rust as a BaseException
        where = "".join(traceback.format_tb(error.__traceback__))
        # The error's message is not logged, because it may quote the prompt.
        log.error("request %s could not be prepared: %s\n%s", request_id, type(error), where)
        return ServingError("The request could not be prepared; the worker's log says why.").to_failure()


def overrun_failure(param: str | None, limit: float) -> Failure:
    return InvalidRequest(
        f"This model's chat template and tokenizer did not get through this prompt in {limit:g} s: shorten it.",
        param=param,
    ).to_failure()


def generation_of(run: Run) -> Generation:
    """The task of a chat model. Raises WrongKind."""
    task = run.submit.task
    if isinstance(task, Generation):
        return task
    refusal = wrong_kind(run.submit.model, "chat", task.kind)
    assert refusal is not None
    raise refusal


def _raise_in(thread: threading.Thread, error: type[BaseException] | None) -> None:
    """Raises ``error`` in a thread at its next bytecode; None cancels one that was not raised yet."""
    raised = ctypes.py_object(error) if error else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), raised)
