"""The loop of a worker that hosts a server: gives out places, and ends as the server does.

Where the engine's loop counts steps, this one counts looks at the server's process: both prove progress.
"""

import logging
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty
from typing import Any

from shared import exits
from workers.host.places import Places
from workers.host.server import HostedServer, how_it_ended
from workers.job import Forgotten, Output
from workers.loop import Add, Cancelled, Command, ForgetKept, Inbox, SetLease, ShareCores, StopWhenIdle

log = logging.getLogger(__name__)

LOOK = 0.2  # seconds


class HostLoop:
    """As ``workers.loop.Loop``, which loads of this worker have in place of it."""

    def __init__(
        self,
        server: HostedServer,
        places: Places,
        inbox: Inbox,
        emit: Callable[[list[Output]], None],
        obeyed: Callable[[], None],
        forgot: Callable[[str, Forgotten], None],
    ) -> None:
        self._server = server
        self._places = places
        self._inbox = inbox
        self._emit = emit
        self._obeyed = obeyed
        self._forgot = forgot
        self._finishing = False
        self.lease = 0
        self.steps = 0

    def run(self) -> None:
        """Returns when it was told to stop and no place is taken."""
        looked = 0.0
        while self._places.taken or not self._finishing:
            with suppress(Empty):
                self._apply(self._inbox.get(timeout=LOOK))
            if outputs := self._places.step():
                self._emit(outputs)
            if (now := time.monotonic()) >= looked + LOOK:
                looked, self.steps = now, self.steps + 1
                if (code := self._server.ended()) is not None:
                    end_alike(code)

    def _apply(self, command: Command) -> None:
        match command:
            case Add(job):
                taken: Any = job
                self._places.add(taken)
            case Cancelled(request_id):
                self._places.cancel(request_id)
            case StopWhenIdle():
                self._finishing = True
            case SetLease(size, serial):
                self._places.lend(size)
                self.lease = serial
                self._obeyed()
            case ForgetKept(query, namespace):
                self._places.forget(namespace, partial(self._forgot, query))
            case ShareCores():
                pass  # its server knows nothing of other workers


def end_alike(code: int) -> None:
    """Ends this process as its server ended, so that the broker sees whose fault it was; never returns."""
    log.error("its server %s", how_it_ended(code))
    logging.shutdown()
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code > 0 else exits.FELL_OVER)
