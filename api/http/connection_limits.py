"""All connections of one process: how many there may be, and who makes room. Pure: it is told the time.

Rule 1: a connection owes a request from its opening, or from a request's first byte, until the request is whole.
Rule 2: beyond ``per_address`` the one that has owed longest is cut, and beyond ``most`` so is one that is idle: a new
connection is served as long as not all others are being served. What has owed for less than GRACE is let be: it may be
one of many that came at once.
"""

from collections import Counter
from typing import Protocol

GRACE = 2.0  # seconds


class Guest(Protocol):
    address: str

    def cut(self) -> None: ...


class Crowd:
    def __init__(self, most: int, per_address: int) -> None:
        self._most = most
        self._per_address = per_address
        self._owing: dict[Guest, float] = {}  # since when; the first first
        self._idle: dict[Guest, float] = {}
        self._all: set[Guest] = set()
        self._unfinished: Counter[str] = Counter()

    def enter(self, guest: Guest, now: float) -> bool:
        """False: there is no room for it. It owes a request."""
        if len(self._all) >= self._most and not self._make_room(now):
            return False
        self._all.add(guest)
        self.owe(guest, now)
        return True

    def owe(self, guest: Guest, now: float) -> None:
        self._idle.pop(guest, None)
        if guest in self._owing or guest not in self._all:
            return
        self._owing[guest] = now
        self._unfinished[guest.address] += 1
        if self._unfinished[guest.address] > self._per_address:
            self._cut_first(self._owing, now, guest.address)

    def paid(self, guest: Guest) -> None:
        """Its request is whole."""
        if self._owing.pop(guest, None) is not None:
            self._unfinished[guest.address] -= 1
            if not self._unfinished[guest.address]:
                del self._unfinished[guest.address]

    def rest(self, guest: Guest, now: float) -> None:
        """Its answer has ended, and it asks nothing."""
        if guest in self._all and guest not in self._owing:
            self._idle[guest] = now

    def leave(self, guest: Guest) -> None:
        self.paid(guest)
        self._idle.pop(guest, None)
        self._all.discard(guest)

    def _make_room(self, now: float) -> bool:
        return self._cut_first(self._owing, now) or self._cut_first(self._idle, now)

    def _cut_first(self, waiting: dict[Guest, float], now: float, address: str | None = None) -> bool:
        for guest, since in waiting.items():
            if now - since < GRACE:
                return False
            if address is None or guest.address == address:
                self.leave(guest)
                guest.cut()
                return True
        return False
