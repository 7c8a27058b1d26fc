"""What ``serve`` waits for: the operator's signals and the end of supervisord, as bytes on a socket.

A queue that a signal handler fills would not do: a signal that comes just before the main thread goes to sleep runs its
handler only when something else wakes that thread.
"""

import select
import signal
import socket
import subprocess
import time
from enum import Enum

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class News(Enum):
    READY = "requests will be answered"
    FALLING = "it falls over each time it is started"
    LATE = "it did not become ready in time"
    ENDED = "supervisord has ended"
    STOP = "the operator wants an end"


class Newsroom:
    """From here on a signal to end is news and ends nothing; make it in the main thread, once."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in (*_STOPS, signal.SIGCHLD):
            if (
                number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
            ):  # under nohup it stays ignored
                signal.signal(number, lambda *_: None)
        self._stops = 0
        self._told_of_the_end = False

    def wait_for_ever(self, process: subprocess.Popen[bytes]) -> News:
        while True:
            if happened := self.wait(process, 3600.0):
                return happened

    def wait(self, process: subprocess.Popen[bytes], patience: float) -> News | None:
        """STOP for each signal, ENDED once; None after ``patience`` seconds."""
        deadline = time.monotonic() + patience
        while True:
            if self._stops:
                self._stops -= 1
                return News.STOP
            if not self._told_of_the_end and process.poll() is not None:
                self._told_of_the_end = True
                return News.ENDED
            remaining = max(0.0, deadline - time.monotonic())
            if not select.select([self._reader], [], [], remaining)[0]:
                return None
            self._stops += sum(number in _STOPS for number in self._reader.recv(4096))
