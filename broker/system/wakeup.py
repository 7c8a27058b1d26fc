"""Signals as bytes on a pipe that can be polled, so that no code of ours runs in a signal handler."""

import os
import signal
from types import FrameType

HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Wakeup:
    def __init__(self) -> None:
        self.fd, self._end = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._end, False)
        signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, _nothing)

    def read(self) -> list[int]:
        """The numbers of the signals since the last call. Several signals of one number may be merged."""
        try:
            return list(os.read(self.fd, 4096))
        except BlockingIOError:
            return []

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self._end)


def _nothing(number: int, frame: FrameType | None) -> None:
    """The byte is written only for signals that have a handler."""
