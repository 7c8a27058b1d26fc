"""What ``serve`` waits for: the operator's signals and the end of supervisord, as bytes on a socket.

A queue filled by a signal handler would not work: if a signal arrives just before the main thread sleeps, its handler
runs only when something else wakes that thread.
"""

import select
import signal
import socket
import subprocess
import time
from enum import Enum

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Event(Enum):
    READY = "the server is ready"
    FAILING = "a process ends each time it is started"
    LATE = "the server did not become ready in time"
    ENDED = "supervisord has ended"
    STOP = "the operator asked to stop"


class EventSource:
    """Turns termination signals into events from its construction on; construct it once, in the main thread."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*_STOPS, signal.SIGCHLD):
            # nohup ignores SIGHUP, and it stays ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        self._stops = 0
        self._end_reported = False

    def wait_forever(self, process: subprocess.Popen[bytes]) -> Event:
        while True:
            if happened := self.wait(process, 3600.0):
                return happened

    def wait(self, process: subprocess.Popen[bytes], patience: float) -> Event | None:
        """Returns STOP for each signal and ENDED once; None after ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while True:
            if self._stops:
                self._stops -= 1
                return Event.STOP
            if not self._end_reported and process.poll() is not None:
                self._end_reported = True
                return Event.ENDED
            remaining = max(0.0, deadline - time.monotonic())
            if not select.select([self._reader], [], [], remaining)[0]:
                return None
            self._stops += sum(number in _STOPS for number in self._reader.recv(4096))
