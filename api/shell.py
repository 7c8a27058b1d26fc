"""The guard around Falcon: what an ASGI server and a framework leave to nobody.

Rule 1: the body is read here, and counted as it comes; what is refused before its end is answered at once and
the rest is read and thrown away, so that a client which is still sending can read the answer.
Rule 2: behind the body, ``receive`` belongs to the shell: a client that leaves ends the work within a moment.
Rule 3: a client that reads nothing for ``send_timeout`` is cut.
Rule 4: every answer has an x-request-id; every error is rendered here, as a status before the head is sent,
as an event in a stream behind it.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from api.dialects import error_dialect
from api.errors import ErrorAnswer, RequestError, answer_to
from api.respond import EVENT_STREAM
from shared.errors import Draining, ServingError
from shared.settings import Settings

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

ABORT = "mlx_server.abort"  # the ASGI extension of api.connection
MAX_HEADERS = 64 << 10  # bytes
THROW_AWAY = 30.0  # seconds of a refused body
_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class ClientLeft(Exception):
    pass


class Shell:
    def __init__(self, app: App, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Exchange(self._app, self._settings, scope, receive, send).run()
        else:
            await self._app(scope, receive, send)


class Exchange:
    """One request and its answer."""

    def __init__(self, app: App, settings: Settings, scope: Message, receive: Receive, send: Send) -> None:
        self._app = app
        self._max_body = settings.max_body_bytes
        self._patience = settings.send_timeout
        self._scope = scope
        self._receive = receive
        self._asgi_send = send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._errors = error_dialect(scope["path"], self._headers)
        self._request_id = self._theirs_or_new()
        self._loop = asyncio.get_running_loop()
        self._body_read = self._head_sent = self._ended = self._streams = False
        self._sending_since: float | None = None

    async def run(self) -> None:
        try:
            self._check_headers()
            await self._serve(await self._body())
        except ClientLeft:
            self._abort()
        except asyncio.CancelledError:  # by the ASGI server, whose patience with what still runs has ended
            await self._answer(Draining("The server is stopping and cannot finish this.", retry_after=5))
        except Exception as error:  # noqa: BLE001 - the resource boundary
            await self._answer(error)

    # ---- in

    def _check_headers(self) -> None:
        if sum(len(name) + len(value) for name, value in self._scope["headers"]) > MAX_HEADERS:
            raise RequestError(431, f"The headers are larger than {MAX_HEADERS} bytes.")
        kind = self._headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        has_body = self._headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self._headers
        if self._scope["method"] == "POST" and has_body and kind != b"application/json":
            raise RequestError(415, "The content type must be application/json.")

    async def _body(self) -> bytes:
        declared = self._headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_body:
            raise self._too_large()
        body = bytearray()
        while not self._body_read:
            body += await self._piece()
            if len(body) > self._max_body:
                raise self._too_large()
        return bytes(body)

    async def _piece(self) -> bytes:
        try:
            async with asyncio.timeout(self._patience):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(408, f"No more of the body came for {self._patience:g} s.") from None
        if message["type"] == "http.disconnect":
            raise ClientLeft
        self._body_read = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    def _too_large(self) -> RequestError:
        return RequestError(413, f"The request body is larger than {self._max_body} bytes.")

    # ---- the work, and what may end it

    async def _serve(self, body: bytes) -> None:
        work = asyncio.create_task(self._work(body))
        left = asyncio.create_task(self._left())
        try:
            while not work.done():
                waiting_for = {work} if self._ended else {work, left}
                await asyncio.wait(
                    waiting_for, timeout=self._patience / 4, return_when=asyncio.FIRST_COMPLETED
                )
                if not work.done() and (self._stuck() or (left.done() and not self._ended)):
                    raise ClientLeft
            work.result()
        finally:
            left.cancel()
            work.cancel()
            await asyncio.wait({work, left})

    async def _work(self, body: bytes) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(self._scope, receive, self._send)

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _stuck(self) -> bool:
        since = self._sending_since
        return since is not None and self._loop.time() - since > self._patience

    def _abort(self) -> None:
        """Without the extension, the server closes what was not answered to its end."""
        if abort := self._scope.get("extensions", {}).get(ABORT):
            abort()

    # ---- out

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head_sent = True
            names = {b"x-request-id", self._errors.request_id_header}
            headers = [*message.get("headers", ()), *((name, self._request_id.encode()) for name in names)]
            self._streams = any(value.startswith(EVENT_STREAM.encode()) for _, value in headers)
            message = {**message, "headers": headers}
        elif not message.get("more_body", False):
            self._ended = True
        self._sending_since = self._loop.time()
        await self._asgi_send(message)
        self._sending_since = None

    def _theirs_or_new(self) -> str:
        for name in (b"x-request-id", b"x-client-request-id"):
            if _SANE_ID.fullmatch(theirs := self._headers.get(name, b"")):
                return theirs.decode()
        return "req_" + secrets.token_hex(16)

    async def _answer(self, error: Exception) -> None:
        if not isinstance(error, ServingError):
            log.error("%s %s failed", self._scope["method"], self._scope["path"], exc_info=error)
        answer = answer_to(error)
        if not self._head_sent:
            await self._refuse(answer)
        elif self._streams and not self._ended:
            event = self._errors.event(answer, self._request_id)
            await self._send({"type": "http.response.body", "body": event})
        else:
            self._abort()

    async def _refuse(self, answer: ErrorAnswer) -> None:
        body = b"" if self._scope["method"] == "HEAD" else self._errors.body(answer, self._request_id)
        headers = {"content-type": "application/json", "content-length": str(len(body)), **answer.headers}
        if not self._body_read:
            headers["connection"] = "close"
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send(
            {"type": "http.response.start", "status": self._errors.status(answer), "headers": raw}
        )
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        await self._throw_away()
        await self._send({"type": "http.response.body"})

    async def _throw_away(self) -> None:
        try:
            async with asyncio.timeout(THROW_AWAY):
                while not self._body_read:
                    await self._piece()
        except (TimeoutError, ClientLeft, RequestError):
            pass
