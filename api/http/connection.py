"""uvicorn's HTTP protocol, with what it leaves out.

Rule 1: a connection that owes the head of a request, the first or a later one, is cut after ``patience`` seconds;
uvicorn waits for ever. So is one whose head does not end; heads that end late are the shell's to refuse.
Rule 2: connections are counted, and make room for each other as api.http.connection_limits says.
Rule 3: requests that are sent ahead of their answers are few: each costs as soon as it is read.
Rule 4: HTTP/1.0 knows no chunks: what has no length goes on until the connection ends.
Rule 5: what the shell must know or do and ASGI has no word for is an extension of the scope.
"""

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.http.connection_limits import Crowd
from api.http.errors import ErrorAnswer, OpenAIErrors
from api.http.guard import ABORT, CLOSING, MAX_HEADERS, TARGET

log = logging.getLogger(__name__)

MAX_AHEAD = 8  # requests
_ENDLESS = 1 << 62


class Connection(HttpToolsProtocol):
    patience = 15.0  # seconds until a request's head is whole
    crowd = Crowd(most=1 << 30, per_address=1 << 30)

    address = ""
    _owed: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _crowded = False  # of the class: whether it was said

    @classmethod
    def of(cls, crowd: Crowd) -> "type[Connection]":
        """A class of its own for one server."""
        return type("Connection", (cls,), {"crowd": crowd})

    def cut(self) -> None:
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        if not self.crowd.enter(self, self.loop.time()):
            self._say(503, "Too many connections are being served; try again soon.", "too_many_connections")
            self._log_crowd()
            return
        type(self)._crowded = False
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.leave(self)
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head_bytes > 2 * MAX_HEADERS:
            self.transport.abort()
        elif self._owed is None and self.timeout_keep_alive_task is None and self._at_rest():
            self._await_head()  # of bytes that began no request

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_AHEAD:
            raise ValueError("too many requests ahead of their answers")
        super().on_message_begin()
        self.crowd.owe(self, self.loop.time())
        if self._owed is None:
            self._await_head()
        extensions = {ABORT: self.transport.abort, CLOSING: self.transport.is_closing}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]

    def on_headers_complete(self) -> None:
        self._head_came()
        self._head_bytes = 0
        self.scope["extensions"][TARGET] = self.url.decode("latin-1")  # type: ignore[assignment]
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0":
            _without_chunks(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.crowd.paid(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._at_rest():
            self.crowd.rest(self, self.loop.time())

    def send_400_response(self, msg: str) -> None:
        """In an answer that has begun it would be a part of it."""
        if self._at_rest():
            self._say(400, msg, "invalid_http")
        else:
            self.transport.abort()

    def _at_rest(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return (cycle is None or cycle.response_complete) and not self.pipeline

    def _await_head(self) -> None:
        self._owed = self.loop.call_later(self.patience, self._give_up)

    def _head_came(self) -> None:
        if self._owed is not None:
            self._owed.cancel()
            self._owed = None

    def _give_up(self) -> None:
        """Unless it is us who do not read: behind requests that wait for their turn."""
        self._owed = None
        if self.flow.read_paused:
            self._await_head()
        else:
            self.transport.abort()

    def _say(self, status: int, message: str, code: str) -> None:
        """Without the shell, and for the last time."""
        answer = ErrorAnswer(status, message, code=code)
        body = OpenAIErrors().body(answer, "")
        head = (
            f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _log_crowd(self) -> None:
        if not type(self)._crowded:
            type(self)._crowded = True
            log.warning("all connections that files allow are being served: new ones are refused with 503")


def _without_chunks(cycle: RequestResponseCycle) -> None:
    send = cycle.send

    async def plain(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            if not any(name.lower() == b"content-length" for name, _ in message.get("headers", ())):
                cycle.chunked_encoding, cycle.expected_content_length = False, _ENDLESS
        elif cycle.expected_content_length > _ENDLESS // 2 and not message.get("more_body", False):
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)  # type: ignore[arg-type]

    cycle.send = plain  # type: ignore[method-assign,assignment]
