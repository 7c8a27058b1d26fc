"""GET /admin/events: every change of models, workers, memory and settings, as server-sent events.

Rule 1: a stream begins with a ``snapshot`` of the whole status, unless the client says which event it had last
(``Last-Event-ID``, which browsers send by themselves) and nothing that came after it has been lost.
Rule 2: while there is no broker the stream stays open; behind another broker it begins with a snapshot again.
Rule 3: with ``?status=SECONDS`` the whole status comes as often as that, for those who show figures that always change.
"""

import asyncio
from collections.abc import AsyncIterator
from math import inf, nan

from falcon.asgi import Request, Response
from pydantic_core import to_json

from api.generation.broker_client import BrokerClient
from api.generation.event_streams import KEEP_ALIVE
from api.http.errors import InvalidField
from api.http.respond import respond_stream
from shared.errors import BrokerLost
from shared.protocol import Change, ChangesReport
from shared.settings import Settings

LOOK = 0.5  # seconds between two questions to the broker; no status comes more often
ASK_WITHIN = 2.0
MOST_SECONDS = 3600.0


class AdminEvents:
    def __init__(self, settings: Settings, broker: BrokerClient) -> None:
        self._keepalive = settings.keepalive
        self._broker = broker

    async def on_get(self, req: Request, resp: Response) -> None:
        position = req.get_header("last-event-id") or req.get_param("last_event_id") or ""
        respond_stream(resp, self._events(position, _seconds(req.get_param("status"))))

    async def _events(self, position: str, every: float) -> AsyncIterator[bytes]:
        """``every``: seconds between two whole reports."""
        loop = asyncio.get_running_loop()
        yield KEEP_ALIVE  # the head goes out at once
        said = reported = loop.time()
        while True:
            try:
                events, position = await self._news(position)
                if loop.time() - reported >= every:
                    reported = loop.time()
                    events += _event(position, "status", await self._status())
            except BrokerLost:
                events = b""
            if events or loop.time() - said >= self._keepalive:
                said = loop.time()
                yield events or KEEP_ALIVE
            await asyncio.sleep(LOOK)

    async def _news(self, position: str) -> tuple[bytes, str]:
        epoch, _, serial = position.rpartition(":")
        since = int(serial) if serial.isascii() and serial.isdigit() and len(serial) < 16 else -1
        report = await self._broker.changes(epoch, since, ASK_WITHIN)
        if report.changes is None:
            return _event(_id(report), "snapshot", await self._status()), _id(report)
        return b"".join(_event(f"{report.epoch}:{c.serial}", c.kind, _data(c)) for c in report.changes), _id(
            report
        )

    async def _status(self) -> bytes:
        status = await self._broker.status(ASK_WITHIN)
        return to_json(status.model_dump(exclude={"type", "query"}))


def _seconds(text: str | None) -> float:
    """Infinity where there is none. Raises InvalidField for what is no number of seconds."""
    if text is None:
        return inf
    try:
        seconds = float(text)
    except ValueError:
        seconds = nan
    if not 0 < seconds <= MOST_SECONDS:
        raise InvalidField(
            f"'status' is a number of seconds, above 0 and at most {MOST_SECONDS:g}.",
            param="status",
            code="invalid_value",
        )
    return seconds


def _id(report: ChangesReport) -> str:
    return f"{report.epoch}:{report.latest}"


def _data(change: Change) -> bytes:
    return to_json({name: value for name, value in change.model_dump(exclude={"serial"}).items() if value})


def _event(id: str, kind: str, data: bytes) -> bytes:
    return f"id: {id}\nevent: {kind}\ndata: ".encode() + data + b"\n\n"
