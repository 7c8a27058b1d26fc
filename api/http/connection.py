"""uvicorn's HTTP protocol with time limits, connection limits and correct HTTP/1.0.

Rule 1: a connection is cut when a request's head is not complete after ``patience`` seconds, or when it is larger
than any head may be; uvicorn waits for ever. This holds for later requests of a connection, too.
Rule 2: connections are limited as api.http.connection_limits says.
Rule 3: at most MAX_AHEAD pipelined requests are read ahead of their answers, as each costs memory.
Rule 4: an answer to HTTP/1.0 is not chunked: without a length, it ends with its connection.
Rule 5: extensions of the ASGI scope give the guard what ASGI has no message for.
Rule 6: bytes that are no HTTP/1 are answered, with 505 where they name another version and with 400 else, as long as
no answer has begun that the bytes would become part of.
"""

import asyncio
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.http.connection_limits import ConnectionLimits
from api.http.errors import ErrorAnswer, OpenAIErrors
from api.http.guard import ABORT, CLOSING, MAX_HEADERS, OTHER_VERSION, TARGET
from api.http.parser import RequestParser

log = logging.getLogger(__name__)

MAX_AHEAD = 8  # requests
_ENDLESS = 1 << 62
_HTTP_0_9 = re.compile(rb"[A-Z]{3,16} [^ \r\n]+\r?\n")  # a whole request of that version is one line
_VERSION_REASONS = re.compile(
    "version|Expected dot|PRI/"
)  # why llhttp stops at a version; PRI is how HTTP/2 begins


class Connection(HttpToolsProtocol):
    patience = 15.0  # seconds until a request's head is whole
    limits = ConnectionLimits(most=1 << 30, per_address=1 << 30)

    address = ""
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _full_logged = False  # an attribute of the class: whether it was logged

    @classmethod
    def of(cls, limits: ConnectionLimits) -> "type[Connection]":
        """A class with the limits of one server."""
        return type("Connection", (cls,), {"limits": limits})

    def cut(self) -> None:
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser = RequestParser(self)  # type: ignore[assignment]
        self.address = self.client[0] if self.client else ""
        if not self.limits.add(self, self.loop.time()):
            self._send_last(
                503, "Too many connections are being served; try again soon.", "too_many_connections"
            )
            self._log_full()
            return
        type(self)._full_logged = False
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.remove(self)
        self._head_complete()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._head_bytes and self._at_rest() and _HTTP_0_9.fullmatch(data):
            self._send_last(505, OTHER_VERSION, "invalid_http")
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head_bytes > 2 * MAX_HEADERS:
            self.transport.abort()
        elif self._head_timer is None and self.timeout_keep_alive_task is None and self._at_rest():
            self._await_head()  # bytes came that began no request

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_AHEAD:
            raise ValueError("too many requests ahead of their answers")
        super().on_message_begin()
        self.limits.begin_request(self, self.loop.time())
        if self._head_timer is None:
            self._await_head()
        extensions = {ABORT: self.transport.abort, CLOSING: self.transport.is_closing}
        self.scope["extensions"] = extensions  # type: ignore[typeddict-item]

    def on_headers_complete(self) -> None:
        self._head_complete()
        self._head_bytes = 0
        self.scope["extensions"][TARGET] = self.url.decode("latin-1")  # type: ignore[assignment]
        old = self.parser.get_http_version() == "1.0"
        self.expect_100_continue &= not old  # that version knows no answer before the answer
        super().on_headers_complete()
        if old:
            _without_chunks(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.limits.end_request(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._at_rest():
            self.limits.idle(self, self.loop.time())

    def send_400_response(self, msg: str) -> None:
        """Is called while httptools' error is handled. Cuts the connection instead where an answer is due before."""
        if self._at_rest() or not (self.cycle.response_started or self.pipeline or self._body_is_whole()):
            other = _VERSION_REASONS.search(str(sys.exc_info()[1]))
            self._send_last(505 if other else 400, OTHER_VERSION if other else msg, "invalid_http")
        else:
            self.transport.abort()

    def _body_is_whole(self) -> bool:
        return not self.cycle.more_body

    def _at_rest(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return (cycle is None or cycle.response_complete) and not self.pipeline

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.patience, self._give_up)

    def _head_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        """Does not count the time in which this server reads nothing because earlier requests are running."""
        self._head_timer = None
        if self.flow.read_paused:
            self._await_head()
        else:
            self.transport.abort()

    def _send_last(self, status: int, message: str, code: str) -> None:
        """Answers without the guard, and closes the connection."""
        answer = ErrorAnswer(status, message, code=code)
        body = OpenAIErrors().body(answer, "")
        head = (
            f"HTTP/1.1 {status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _log_full(self) -> None:
        if not type(self)._full_logged:
            type(self)._full_logged = True
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
