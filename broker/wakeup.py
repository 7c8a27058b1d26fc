"""Signals as something to poll: each arrives as one byte on a pipe, so no code runs in between."""

import os
import signal
from types import FrameType

HEEDED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)


class Wakeup:
    def __init__(self) -> None:
        self.fd, self._end = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._end, False)
        signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        for number in HEEDED:
            signal.signal(number, _nothing)

    def read(self) -> list[int]:
        """The numbers of the signals since the last call. Many of one kind may be fewer here."""
        try:
            return list(os.read(self.fd, 4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self._end)


def _nothing(number: int, frame: FrameType | None) -> None:
    """A handler has to be there for the byte to be written."""
