"""Which caller and which group of requests a request belongs to, for everything that takes turns between callers."""

from typing import NamedTuple


class Asker(NamedTuple):
    """``group`` names what came with one HTTP request, or for one user; see ``Submit``."""

    caller: str
    group: str


def asker_of(caller: str, group: str, request_id: str) -> Asker:
    """Without an API key (``caller`` empty) each group is a caller; without a group each request is a group."""
    group = group or request_id
    return Asker(caller or group, group)
