"""How many connections one process has, and which is cut for a new one. Pure: the time is an argument.

Rule 1: a connection is incomplete from its opening, or a request's first byte, until that request is complete.
Rule 2: beyond ``per_address`` incomplete connections of an address, its oldest is cut. Beyond ``most`` connections,
the oldest incomplete one is cut, else the oldest idle one; one whose request is running never is.
Rule 3: a connection that is younger than GRACE is not cut: a client may open many at once.
"""

from collections import Counter
from typing import Protocol

GRACE = 2.0  # seconds


class LimitedConnection(Protocol):
    address: str

    def cut(self) -> None: ...


class ConnectionLimits:
    def __init__(self, most: int, per_address: int) -> None:
        self._most = most
        self._per_address = per_address
        self._incomplete: dict[LimitedConnection, float] = {}  # when each began, in that order
        self._idle: dict[LimitedConnection, float] = {}
        self._all: set[LimitedConnection] = set()
        self._unfinished: Counter[str] = Counter()

    def add(self, connection: LimitedConnection, now: float) -> bool:
        """False when there is no room for it. A new connection is incomplete."""
        if len(self._all) >= self._most and not self._make_room(now):
            return False
        self._all.add(connection)
        self.begin_request(connection, now)
        return True

    def begin_request(self, connection: LimitedConnection, now: float) -> None:
        self._idle.pop(connection, None)
        if connection in self._incomplete or connection not in self._all:
            return
        self._incomplete[connection] = now
        self._unfinished[connection.address] += 1
        if self._unfinished[connection.address] > self._per_address:
            self._cut_oldest(self._incomplete, now, connection.address)

    def end_request(self, connection: LimitedConnection) -> None:
        """Its request is complete."""
        if self._incomplete.pop(connection, None) is not None:
            self._unfinished[connection.address] -= 1
            if not self._unfinished[connection.address]:
                del self._unfinished[connection.address]

    def idle(self, connection: LimitedConnection, now: float) -> None:
        """Its answer has ended, and no other request has begun."""
        if connection in self._all and connection not in self._incomplete:
            self._idle[connection] = now

    def remove(self, connection: LimitedConnection) -> None:
        self.end_request(connection)
        self._idle.pop(connection, None)
        self._all.discard(connection)

    def _make_room(self, now: float) -> bool:
        return self._cut_oldest(self._incomplete, now) or self._cut_oldest(self._idle, now)

    def _cut_oldest(
        self, waiting: dict[LimitedConnection, float], now: float, address: str | None = None
    ) -> bool:
        for connection, since in waiting.items():
            if now - since < GRACE:
                return False
            if address is None or connection.address == address:
                self.remove(connection)
                connection.cut()
                return True
        return False
