"""How a worker ended, and whether its requests may be at fault. Pure.

Rule 1: an orderly exit and a signal from outside (SIGKILL, SIGTERM, SIGINT, SIGHUP) are no request's fault.
Rule 2: any other signal, an exit code above 0 and an engine that hangs are crashes: a request may be at fault.
"""

import signal
from dataclasses import dataclass
from enum import Enum

from shared.errors import MAX_MESSAGE

_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


class Fault(Enum):
    NONE = "none"  # it left in good order
    OUTSIDE = "outside"  # or not known
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class ExitCause:
    """``how`` is the rest of a sentence that begins with the worker."""

    how: str
    fault: Fault = Fault.OUTSIDE


def of_exit(code: int | None) -> ExitCause:
    """``code`` is an exit code, or minus a signal's number; None: not known."""
    if code is None:
        return ExitCause("ended, nobody knows how")
    if code >= 0:
        return ExitCause(f"exited with code {code}", Fault.CRASH if code else Fault.NONE)
    fault = Fault.OUTSIDE if -code in _FROM_OUTSIDE else Fault.CRASH
    return ExitCause(f"was killed by {signal_name(-code)}", fault)


def left(why: str) -> ExitCause:
    return ExitCause(f"left: {why[:MAX_MESSAGE]}", Fault.NONE)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
