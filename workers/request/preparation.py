"""Requests on their way to the engine: prepared on threads beside it, each under a deadline.

Rule 1: whatever a library raises, a request that came in is answered once: with a job, a failure, or by being given up.
Rule 2: a short request never waits for a long one, and callers take turns.
Rule 3: a request that overruns its time is given up. Its thread is told to end and another takes its place; one that
sits in a library and never looks up is counted as ``stuck``.
"""

import ctypes
import logging
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from shared.callers import asker_of
from shared.errors import InvalidRequest, ServingError
from shared.protocol import ChatPrompt, Failure, Run, TextPrompt
from workers.job import Job, Prepare
from workers.output.text import characters_in
from workers.request.fair_queue import Turns

log = logging.getLogger(__name__)

THREADS = 4
LONG_AT_ONCE = 2  # of them; the others are for short requests
LONG = 32 << 10  # characters or token ids; a request of fewer is prepared in milliseconds

Answer = Callable[[Run, Job | Failure], None]  # called on a preparing thread


class Overrun(BaseException):
    """Raised in the thread whose request was given up. No Exception, so that no template or library catches it."""


@dataclass(eq=False)
class Task:
    run: Run
    long: bool
    began: float = 0.0  # once a thread has it


class Preparing:
    """``limit``: seconds a thread may spend on one request."""

    def __init__(self, prepare: Prepare, answer: Answer, limit: float) -> None:
        self._prepare = prepare
        self._answer = answer
        self._limit = limit
        self._changed = threading.Condition()  # guards all that follows
        self._short: Turns[Task] = Turns()
        self._long: Turns[Task] = Turns()
        self._at_work: dict[Task, threading.Thread] = {}
        self._given_up: list[threading.Thread] = []
        for _ in range(THREADS):
            self._start_thread()

    def submit(self, run: Run) -> None:
        task = Task(run, size_of(run) >= LONG)
        with self._changed:
            self._queue(task).put(caller_of(run), task)
            self._changed.notify_all()

    def withdraw(self, request_id: str) -> bool:
        """Whether it still waited, and so will not be answered."""
        with self._changed:
            for queue in (self._short, self._long):
                for task in queue:
                    if task.run.submit.request_id == request_id:
                        return queue.remove(caller_of(task.run), task)
        return False

    def give_up_overdue(self, now: float) -> list[Run]:
        """Those whose time is over; they will not be answered."""
        with self._changed:
            overdue = [task for task in self._at_work if now - task.began > self._limit]
            for task in overdue:
                thread = self._at_work.pop(task)
                _raise_in(thread, Overrun)
                self._given_up.append(thread)
                self._start_thread()
            return [task.run for task in overdue]

    def forgive(self, seconds: float) -> None:
        """This process was stopped for so long."""
        with self._changed:
            for task in self._at_work:
                task.began += seconds

    @property
    def stuck(self) -> int:
        """Threads that were given up and have not ended."""
        self._given_up = [thread for thread in self._given_up if thread.is_alive()]
        return len(self._given_up)

    # ------------------------------------------------------------ on the preparing threads

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, name="prepare", daemon=True).start()

    def _work(self) -> None:
        try:
            while self._finish(task := self._next(), outcome_of(self._prepare, task.run)):
                pass
        except Overrun:
            pass

    def _next(self) -> Task:
        with self._changed:
            while (queue := self._served_next()) is None:
                self._changed.wait()
            task = queue.take()
            task.began = time.monotonic()
            self._at_work[task] = threading.current_thread()
            return task

    def _served_next(self) -> Turns[Task] | None:
        """A long one as soon as none is at work, else short ones first."""
        long_at_work = sum(task.long for task in self._at_work)
        if self._long and not long_at_work:
            return self._long
        if self._short:
            return self._short
        return self._long if self._long and long_at_work < LONG_AT_ONCE else None

    def _finish(self, task: Task, outcome: Job | Failure) -> bool:
        """Whether this thread goes on; it does not when the task was given up meanwhile."""
        with self._changed:
            if self._at_work.pop(task, None) is None:
                _raise_in(threading.current_thread(), None)  # what is on its way has no use any more
                return False
            self._changed.notify_all()
        self._answer(task.run, outcome)
        return True

    def _queue(self, task: Task) -> Turns[Task]:
        return self._long if task.long else self._short


def outcome_of(prepare: Prepare, run: Run) -> Job | Failure:
    """What is unknown here would be a bug; it fails this request and no other."""
    try:
        return prepare(run)
    except ServingError as error:
        return error.to_failure()
    except Overrun:
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in Rust, as pyo3 passes it on, is no Exception
        where = "".join(traceback.format_tb(error.__traceback__))
        # Not the error's words: they may be the prompt's.
        log.error("request %s could not be prepared: %s\n%s", run.submit.request_id, type(error), where)
        return ServingError("The request could not be prepared; the worker's log says why.").to_failure()


def overrun_failure(run: Run, limit: float) -> Failure:
    return InvalidRequest(
        f"This model's chat template and tokenizer did not get through this prompt in {limit:g} s: shorten it.",
        param=run.submit.generation.prompt.param,
    ).to_failure()


def size_of(run: Run) -> int:
    """Characters or token ids."""
    match run.submit.generation.prompt:
        case ChatPrompt(messages=messages, tools=tools):
            return characters_in([messages, tools])
        case TextPrompt(text=text, suffix=suffix):
            return len(text) + len(suffix or "")
        case prompt:
            return len(prompt.ids) + len(prompt.suffix or "")


def caller_of(run: Run) -> str:
    submit = run.submit
    return asker_of(submit.caller, submit.group, submit.request_id).caller


def _raise_in(thread: threading.Thread, error: type[BaseException] | None) -> None:
    """At its next bytecode; None takes back what it has not come to yet."""
    raised = ctypes.py_object(error) if error else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), raised)
