"""Standard output and error that cannot fail, and text that is safe on a terminal.

A full disk, a closed pipe or a limit on file sizes costs the lines that cannot be written, never the process.
"""

import io
import re
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

# C0, DEL and C1, line separators, marks that reverse the direction of text, single surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Dropping(io.FileIO):
    """A file descriptor on which every write succeeds: bytes that the system refuses are dropped."""

    def write(self, data: "Buffer", /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def drop_what_cannot_be_written() -> None:
    """Replaces ``sys.stdout`` and ``sys.stderr``. Call it in a ``__main__``, before anything is printed."""
    sys.stdout = _dropping(sys.stdout)
    sys.stderr = _dropping(sys.stderr)


def _dropping(stream: TextIO) -> TextIO:
    stream.flush()
    raw = Dropping(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, errors="backslashreplace", line_buffering=True
    )


def printable(text: str) -> str:
    """The text on one line, with ``\\n``, ``\\x1b`` and other control characters as escapes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
