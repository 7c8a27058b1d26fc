"""The engine thread's loop: apply the commands in the inbox, step the engine, emit its outputs.

Loading, prefill and decoding all happen on this one thread. The link thread fills the inbox and sends the outputs.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from shared.failpoints import failpoint
from workers.job import Engine, Forgotten, Output, Runnable

GATHER = 0.03  # seconds to wait for more requests when idle; a prompt costs half as much in a batch
REST = 10.0  # seconds without a step, after which the engine gives back memory


@dataclass(frozen=True)
class Add:
    job: Runnable


@dataclass(frozen=True)
class Cancelled:
    request_id: str


@dataclass(frozen=True)
class StopWhenIdle:
    """Complete all running requests, then return from the loop."""


@dataclass(frozen=True)
class ShareCores:
    """How many workers compute on this machine now."""

    workers: int


@dataclass(frozen=True)
class SetLease:
    """``size``: bytes for keys and values; ``serial``: the broker's number of this lease."""

    size: int
    serial: int


@dataclass(frozen=True)
class ForgetKept:
    """Of a namespace, or of all; ``query`` is the broker's."""

    query: str
    namespace: str | None


Command = Add | Cancelled | StopWhenIdle | ShareCores | SetLease | ForgetKept
Inbox = SimpleQueue[Command]


class Loop:
    def __init__(
        self,
        engine: Engine[Any],
        inbox: Inbox,
        emit: Callable[[list[Output]], None],
        share: Callable[[int], None] = lambda workers: None,
        preparing: Callable[[], int] = lambda: 0,
        rest_after: float = REST,
        obeyed: Callable[[], None] = lambda: None,
        forgot: Callable[[str, Forgotten], None] = lambda query, forgotten: None,
    ) -> None:
        """``preparing``: how many requests have arrived and are not in the inbox yet.

        ``obeyed`` is called when the engine keeps to a new lease, ``forgot`` when it has forgotten what it was told to.
        """
        self._engine = engine
        self._inbox = inbox
        self._emit = emit
        self._share = share
        self._preparing = preparing
        self._rest_after = rest_after
        self._obeyed = obeyed
        self._forgot = forgot
        self._finishing = False
        self._worked, self._rested = time.monotonic(), False
        self.lease = 0  # the serial number of the lease that the engine keeps to; read by the link thread
        self.steps = 0  # read by the link thread for its heartbeat, as proof of progress

    def run(self) -> None:
        while self._engine.active or not self._finishing:
            self.turn()

    def turn(self) -> None:
        """One step of the engine; waits for a command if the engine is idle."""
        if not self._engine.active:
            self._apply(self._wait())
            self._gather()
        self._apply_all()
        if self._engine.active:
            failpoint("engine.step", self.steps)
            outputs = self._engine.step()
            self.steps += 1
            self._worked, self._rested = time.monotonic(), False
            if outputs:
                self._emit(outputs)

    def _wait(self) -> Command:
        """Waits for a command. An idle engine rests once, also if commands without work arrive meanwhile."""
        while not self._rested:
            try:
                return self._inbox.get(timeout=max(0, self._worked + self._rest_after - time.monotonic()))
            except Empty:
                self._engine.rest()
                self._rested = True
        return self._inbox.get()

    def _gather(self) -> None:
        """Waits for requests that are being prepared, so that requests of the same moment start in one batch."""
        deadline = time.monotonic() + GATHER
        while self._engine.active and self._preparing() and (left := deadline - time.monotonic()) > 0:
            try:
                self._apply(self._inbox.get(timeout=left))
            except Empty:
                return

    def _apply_all(self) -> None:
        while True:
            try:
                self._apply(self._inbox.get_nowait())
            except Empty:
                return

    def _apply(self, command: Command) -> None:
        match command:
            case Add(job):
                self._engine.add(job)
            case Cancelled(request_id):
                self._engine.cancel(request_id)
            case StopWhenIdle():
                self._finishing = True
            case ShareCores(workers):
                self._share(workers)
            case SetLease(size, serial):
                self._engine.lend(size)
                self.lease = serial
                self._obeyed()
            case ForgetKept(query, namespace):
                self._engine.forget(namespace, partial(self._forgot, query))
