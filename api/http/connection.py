"""uvicorn's HTTP protocol with time limits, connection limits and correct HTTP/1.0.

Rule 1: a connection is cut when a request's head is not complete after ``patience`` seconds, or when it is larger
than any head may be; uvicorn waits for ever. This holds for later requests of a connection, too.
Rule 2: connections are limited as api.http.connection_limits says.
Rule 3: at most MAX_AHEAD pipelined requests are read ahead of their answers, as each costs memory.
Rule 4: an answer to HTTP/1.0 is not chunked: without a length, it ends with its connection.
Rule 5: an offer to speak another protocol is not taken: the request is read as if the offer were not there. Java's
HttpClient offers HTTP/2 with every request to an address without TLS, and httptools would drop the body of such a one.
Rule 6: extensions of the ASGI scope give the guard what ASGI has no message for.
"""

import asyncio
import logging
from array import array
from collections.abc import MutableMapping
from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.http.connection_limits import ConnectionLimits
from api.http.errors import ErrorAnswer, OpenAIErrors
from api.http.guard import ABORT, CLOSING, MAX_HEADERS, TARGET

log = logging.getLogger(__name__)

MAX_AHEAD = 8  # requests
_ENDLESS = 1 << 62
_OF_OFFERS = (b"upgrade", b"http2-settings")


class Parser(HttpRequestParser):
    """httptools' parser, which stops at the end of a head that offers another protocol; this one goes on."""

    def __init__(self, connection: "Connection") -> None:
        super().__init__(connection)
        self._connection = connection

    def feed_data(self, data: "bytes | bytearray | memoryview[int] | array[int]") -> None:
        while data:
            try:
                super().feed_data(data)
                return
            except HttpParserUpgrade as stop:
                data = self._connection.head_without_offer() + bytes(data)[stop.args[0] :]


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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = Parser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does for its own

    def cut(self) -> None:
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
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
        if self.parser.should_upgrade():  # the head comes once more
            return
        self._head_complete()
        self._head_bytes = 0
        self.scope["extensions"][TARGET] = self.url.decode("latin-1")  # type: ignore[assignment]
        super().on_headers_complete()
        if self.parser.get_http_version() == "1.0":
            _without_chunks(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self.limits.end_request(self)
        super().on_message_complete()

    def head_without_offer(self) -> bytes:
        """The head that was just read, without what offers another protocol."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        fields = [(name, value) for name, value in self.headers if name not in _OF_OFFERS]
        fields = [(name, _without_offer(value) if name == b"connection" else value) for name, value in fields]
        lines = [method + b" " + self.url + b" HTTP/" + version]
        lines += [name + b": " + value for name, value in fields]
        return b"\r\n".join([*lines, b"", b""])

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._at_rest():
            self.limits.idle(self, self.loop.time())

    def send_400_response(self, msg: str) -> None:
        """Cuts the connection instead where an answer has begun: the bytes would become part of it."""
        if self._at_rest():
            self._send_last(400, msg, "invalid_http")
        else:
            self.transport.abort()

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


def _without_offer(connection: bytes) -> bytes:
    """``connection``: the value of that header."""
    options = (option.strip() for option in connection.split(b","))
    return b", ".join(option for option in options if option.lower() not in _OF_OFFERS)


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
