"""The engine thread's loop: obey what came in, step the engine, hand over what came out.

Every touch of the model happens here, on one thread: loading, reading, decoding. The link thread fills the inbox and
sends what is handed over.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from shared.failpoints import failpoint
from workers.job import Engine, Job, Output

GATHER = 0.03  # seconds; a prompt costs half as much when it is read beside others
REST = 10.0  # seconds without a step, then the engine gives back what the next one can do without


@dataclass(frozen=True)
class Add:
    job: Job


@dataclass(frozen=True)
class Cancelled:
    request_id: str


@dataclass(frozen=True)
class Finish:
    """Finish what is running, then return."""


@dataclass(frozen=True)
class Share:
    """So many workers compute on this machine now."""

    workers: int


Command = Add | Cancelled | Finish | Share
Inbox = SimpleQueue[Command]


class Loop:
    def __init__(
        self,
        engine: Engine,
        inbox: Inbox,
        hand_over: Callable[[list[Output]], None],
        share: Callable[[int], None] = lambda workers: None,
        coming: Callable[[], int] = lambda: 0,
        rest_after: float = REST,
    ) -> None:
        """``coming``: how many requests have arrived and will be in the inbox in a moment."""
        self._engine = engine
        self._inbox = inbox
        self._hand_over = hand_over
        self._share = share
        self._coming = coming
        self._rest_after = rest_after
        self._finishing = False
        self._worked, self._rested = time.monotonic(), False
        self.steps = 0  # proof of progress, read by the link thread for its heartbeat

    def run(self) -> None:
        while self._engine.active or not self._finishing:
            self.turn()

    def turn(self) -> None:
        """Waits for a command when there is nothing to step."""
        if not self._engine.active:
            self._obey(self._wait())
            self._gather()
        self._obey_all()
        if self._engine.active:
            failpoint("engine.step", self.steps)
            outputs = self._engine.step()
            self.steps += 1
            self._worked, self._rested = time.monotonic(), False
            if outputs:
                self._hand_over(outputs)

    def _wait(self) -> Command:
        """The engine rests once, however often it is told of others meanwhile."""
        while not self._rested:
            try:
                return self._inbox.get(timeout=max(0, self._worked + self._rest_after - time.monotonic()))
            except Empty:
                self._engine.rest()
                self._rested = True
        return self._inbox.get()

    def _gather(self) -> None:
        """Nobody is being answered: those who asked at the same moment begin together."""
        deadline = time.monotonic() + GATHER
        while self._engine.active and self._coming() and (left := deadline - time.monotonic()) > 0:
            try:
                self._obey(self._inbox.get(timeout=left))
            except Empty:
                return

    def _obey_all(self) -> None:
        while True:
            try:
                self._obey(self._inbox.get_nowait())
            except Empty:
                return

    def _obey(self, command: Command) -> None:
        match command:
            case Add(job):
                self._engine.add(job)
            case Cancelled(request_id):
                self._engine.cancel(request_id)
            case Finish():
                self._finishing = True
            case Share(workers):
                self._share(workers)
