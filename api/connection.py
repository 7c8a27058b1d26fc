"""uvicorn's HTTP protocol, with what it leaves out.

Rule 1: a connection that says nothing, or half a request, is cut; uvicorn waits for ever.
Rule 2: so is one whose headers do not end; those that end late are the shell's to refuse.
Rule 3: the shell may abort a connection: ASGI has no word for that, so it is an extension of the scope.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.shell import ABORT, MAX_HEADERS


class Connection(HttpToolsProtocol):
    patience = 15.0  # seconds until the first request's headers are whole

    _first_request: asyncio.TimerHandle
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._first_request = self.loop.call_later(self.patience, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._first_request.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > 2 * MAX_HEADERS and not self.transport.is_closing():
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: self.transport.abort}  # type: ignore[dict-item]

    def on_headers_complete(self) -> None:
        self._first_request.cancel()
        self._head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)
