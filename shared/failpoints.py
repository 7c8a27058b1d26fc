"""Places where a test makes a process fail; they do nothing unless a ``__main__`` has called ``arm``.

``MLX_SERVER_FAULT=@/a/file``: the file names one fault, ``point:condition:action``; the process that reaches the point
removes the file and acts, so each fault happens once. Conditions: empty; ``17`` or ``submit``, the value at the point;
``17+``, a value of 17 or more; ``#3``, the third time that a process passes it. Actions: kill9, stop, abort, hang,
raise, exit=N, delay=SECONDS.
"""

import os
import signal
import time
from collections import Counter
from pathlib import Path

VARIABLE = "MLX_SERVER_FAULT"

_file: Path | None = None
_passed: Counter[str] = Counter()


class InjectedError(Exception):
    """What ``raise`` raises."""


def arm(value: str | None) -> None:
    global _file
    _file = Path(value.removeprefix("@")) if value else None


def failpoint(point: str, value: object = "") -> None:
    if _file is not None:
        _pass(_file, point, str(value))


def _pass(file: Path, point: str, value: str) -> None:
    try:
        wanted, condition, action = file.read_text().strip().split(":")
    except (FileNotFoundError, ValueError):
        return
    if wanted != point:
        return
    if condition.startswith("#"):
        _passed[point] += 1
        value = f"#{_passed[point]}"
    if _holds(condition, value) and _take(file):
        _passed.clear()
        _act(*action.split("="))


def _holds(condition: str, value: str) -> bool:
    if condition.endswith("+"):
        return int(value) >= int(condition[:-1])
    return condition in ("", value)


def _take(file: Path) -> bool:
    try:
        file.rename(file.with_suffix(".done"))
    except FileNotFoundError:
        return False
    return True


def _act(action: str, value: str = "") -> None:
    match action:
        case "kill9":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "abort":
            os.abort()
        case "hang":
            while True:
                time.sleep(3600)
        case "raise":
            raise InjectedError("a test asked for it")
        case "exit":
            os._exit(int(value))
        case "delay":
            time.sleep(float(value))
        case _:
            raise ValueError(f"no such action: {action!r}")
