"""Log lines on standard error, one per event; the process that started this one keeps them in a file.

Rule 1: prompts and keys are never logged.
Rule 2: text of a client, a model folder or another process never begins a line and never moves a cursor.
"""

import logging
import sys
from types import TracebackType

from shared.output import drop_what_cannot_be_written, printable

LONGEST = 4000  # characters of one line

_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure(process: str, level: str) -> None:
    """For a ``__main__``. ``process`` is the name each line carries, e.g. ``broker`` or ``worker smollm2``."""
    drop_what_cannot_be_written()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "huggingface_hub", "filelock", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class OneLine(logging.Formatter):
    """Tracebacks are indented lines below theirs."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process.replace('%', '%%')}: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return _bounded(super().formatMessage(record))

    def formatException(self, ei: _Raised) -> str:  # noqa: N802
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"    {_bounded(line)}" for line in lines)


def _bounded(line: str) -> str:
    if len(line) > LONGEST:
        line = f"{line[:LONGEST]} … and {len(line) - LONGEST} letters more"
    return printable(line)
