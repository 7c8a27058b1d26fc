"""Parses requests with httptools, also their bodies where it reads none, and leaves out what stands behind a body.

Rule 1: an offer of another protocol (Upgrade) is no more than a header, as HTTP allows: the request is read to its end.
httptools takes what follows the head for the other protocol, and a body with it.
Rule 2: header fields behind a body (trailers) are dropped: what the guard checks is the head.
"""

from typing import Any, Protocol

import httptools

_FRAMING = (b"content-length", b"transfer-encoding")


class Callbacks(Protocol):
    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


class RequestParser:
    """In the place of ``httptools.HttpRequestParser``."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._to = callbacks
        self._in_head = False
        self._restarted = False  # the parser reads the head by which a body is read behind an offer
        self._framing = b""
        self.on_url, self.on_body = callbacks.on_url, callbacks.on_body
        parser: Any = httptools.HttpRequestParser(self)
        # As uvicorn sets it, for requests that were sent before an answer which closes.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parser = parser
        self.get_http_version, self.get_method = parser.get_http_version, parser.get_method
        self.should_keep_alive = parser.should_keep_alive

    def feed_data(self, data: bytes) -> None:
        """Raises httptools.HttpParserError."""
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
            if self._framing:
                self._restarted = True
                self._parser.feed_data(b"POST / HTTP/1.1\r\n" + self._framing + b"\r\n")

    def should_upgrade(self) -> bool:
        return False

    # ---- what httptools calls, beside on_url and on_body

    def on_message_begin(self) -> None:
        if not self._restarted:
            self._in_head, self._framing = True, b""
            self._to.on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            if name.lower() in _FRAMING and value.strip() != b"0":
                self._framing += name + b": " + value + b"\r\n"
            self._to.on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._restarted:
            self._restarted = False
        else:
            self._to.on_headers_complete()

    def on_message_complete(self) -> None:
        if self._parser.should_upgrade() and self._framing:
            return  # the body comes yet
        self._to.on_message_complete()
