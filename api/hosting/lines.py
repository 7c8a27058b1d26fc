"""Whole lines of a stream of server-sent events, however it is cut into pieces. Pure."""

MOST = 64 << 20  # bytes of one line


class TooLong(Exception):
    """A line without an end."""


class Lines:
    """A long line costs no more than its bytes: pieces are joined once."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._rest: list[bytes] = []
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Bytes of the line whose end has not come."""
        return self._waiting

    def take(self, piece: bytes) -> bytes:
        """All whole lines that have come by now, with their ends. Raises TooLong."""
        lines, newline, rest = piece.rpartition(b"\n")
        whole = b""
        if newline:
            whole = b"".join((*self._rest, lines, newline))
            self._rest, self._waiting = [], 0
        self._rest.append(rest)
        self._waiting += len(rest)
        if self._waiting > self._most:
            raise TooLong
        return whole

    def end(self) -> bytes:
        """The line without an end."""
        rest, self._rest, self._waiting = b"".join(self._rest), [], 0
        return rest
