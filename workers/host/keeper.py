"""Keeps one hosted server: starts it, and ends it and all that it started when its worker is gone.

``python -P keeper.py SIGNAL COMMAND…``, which needs nothing else of ours. Standard input is a pipe whose other end the
worker holds, so that the worker's end, also by SIGKILL, is the end of the pipe.

Rule 1: the server gets a session of its own. SIGNAL ends it; what is left of its session and, on Linux, of its
descendants is killed PATIENCE seconds later, or at once when the server has ended by itself.
Rule 2: this process ends as the server did: with its exit code, or by the signal that killed it.
"""

import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil

PATIENCE = 10.0  # seconds
_LOOK = 0.05  # seconds between looks at a server that is to end
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main(arguments: list[str]) -> int:
    number, command = signal.Signals[arguments[0]], arguments[1:]
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # the worker decides, and says so by the pipe
    _adopt_orphans()
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            restore_signals=True,
            preexec_fn=_defaults,
        )
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return 127
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(woken, select.POLLIN)
    while server.poll() is None:
        if any(fd == 0 for fd, _ in poll.poll()):
            _end(server, number)
    _kill_rest(server.pid)
    return _end_alike(server.returncode)


def _defaults() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _adopt_orphans() -> None:
    """What the server starts and leaves becomes a child of this process, and is found at its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end(server: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    server.send_signal(number)
    until = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < until:
        time.sleep(_LOOK)
    if server.poll() is None:
        server.kill()
        server.wait()


def _kill_rest(session: int) -> None:
    with suppress(OSError):
        os.killpg(session, signal.SIGKILL)
    for left in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            left.kill()


def _end_alike(code: int) -> int:
    if code >= 0:
        return code
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
    return 128 - code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
