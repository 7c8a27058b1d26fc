"""Runs supervisord with three changes.

It checks ten times a second for ended processes; unchanged it takes up to two seconds to restart a killed one.
A log file that cannot be opened, written or rotated only loses lines; unchanged supervisord ends or starts no process.
A program that is told to stop before it runs stops; unchanged its signal is lost, and it is killed after stopwaitsecs.
"""

import io
import os
import signal
import time
from contextlib import suppress
from typing import Any

from supervisor import loggers, poller, supervisord

from shared.output import drop_what_cannot_be_written

INTERVAL = 0.1  # seconds
REOPEN = 1.0  # seconds between attempts to open the file
HANDLED = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGUSR2,
}  # by supervisord, and by its forks


class PromptPoller(poller.Poller):  # type: ignore[misc]  # untyped there
    def poll(self, timeout: float) -> Any:
        return super().poll(min(timeout, INTERVAL))


class DroppingFileHandler(loggers.RotatingFileHandler):  # type: ignore[misc]  # untyped there
    """A log file that never raises. A line that cannot be written is dropped whole; the next one reports the loss."""

    stream: io.FileIO | None

    def __init__(self, filename: str, mode: str = "ab", maxBytes: int = 0, backupCount: int = 0) -> None:  # noqa: N803
        loggers.Handler.__init__(self)  # FileHandler.__init__ raises if the file cannot be opened
        self.baseFilename = filename
        self.mode = "ab"
        self.maxBytes = maxBytes
        self.backupCount = backupCount
        self.dropped = 0
        self._opened = -REOPEN  # time of the last attempt
        self.reopen()

    def reopen(self) -> None:
        self.close()
        self._opened = time.monotonic()
        with suppress(OSError):
            self.stream = open(self.baseFilename, "ab", buffering=0)  # noqa: PTH123, SIM115
            self.closed = False

    def close(self) -> None:
        self.closed = True
        if self.stream is not None:
            with suppress(OSError):
                self.stream.close()
        self.stream = None

    def remove(self) -> None:
        with suppress(OSError):
            super().remove()

    def emit(self, record: Any) -> None:
        if self.stream is None and time.monotonic() > self._opened + REOPEN:
            self.reopen()
        line = self._bytes(record)
        if self.dropped:
            line = b"(%d pieces of this log were lost: they could not be written)\n%s" % (self.dropped, line)
        if self._write(line):
            self.dropped = 0
            self.doRollover()
        else:
            self.dropped += 1

    def _bytes(self, record: Any) -> bytes:
        """A child's output unchanged, or supervisord's own message in its format."""
        if isinstance(record.msg, bytes):
            return record.msg
        text: str = self.fmt % record.asdict()
        return text.encode(errors="backslashreplace")

    def _write(self, line: bytes) -> bool:
        """Writes the whole line or nothing."""
        if self.stream is None:
            return False
        try:
            written = self.stream.write(line)
            if written < len(line):
                self.stream.truncate(size_of(self.stream) - written)
        except OSError:
            return False
        return written == len(line)

    def doRollover(self) -> None:  # noqa: N802
        if self.stream is None or not 0 < self.maxBytes <= size_of(self.stream):
            return
        with suppress(OSError):
            super().doRollover()
        self.reopen()


def size_of(stream: io.FileIO) -> int:
    return os.fstat(stream.fileno()).st_size


def end_forks_by_signals() -> None:
    """From here on a fork of this process has the default signal actions, and no signal comes before it has them."""

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)

    def restore() -> None:
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        unblock()

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED),
        after_in_parent=unblock,
        after_in_child=restore,
    )


def main() -> None:
    end_forks_by_signals()
    drop_what_cannot_be_written()
    poller.Poller = PromptPoller
    loggers.FileHandler = loggers.RotatingFileHandler = DroppingFileHandler
    supervisord.main()


if __name__ == "__main__":
    main()
