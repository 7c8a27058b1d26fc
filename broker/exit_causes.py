"""How workers end, and whose fault that is. Pure.

Rule 1: who leaves when told, or is ended from outside, blames nobody: SIGKILL is the operator's, the system's or ours.
Rule 2: what ran may be at fault only for a crash: another signal, an exit code, an engine that hangs.
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
class Ending:
    """``how`` continues a sentence about the worker."""

    how: str
    fault: Fault = Fault.OUTSIDE


def of_exit(code: int | None) -> Ending:
    """``code`` is an exit code, or minus a signal's number; None: not known."""
    if code is None:
        return Ending("ended, nobody knows how")
    if code >= 0:
        return Ending(f"exited with code {code}", Fault.CRASH if code else Fault.NONE)
    fault = Fault.OUTSIDE if -code in _FROM_OUTSIDE else Fault.CRASH
    return Ending(f"was killed by {signal_name(-code)}", fault)


def left(why: str) -> Ending:
    return Ending(f"left: {why[:MAX_MESSAGE]}", Fault.NONE)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
