"""The guard around Falcon: checks, limits and errors that neither the ASGI server nor Falcon provides.

Rule 1: what the head shows to be wrong is refused before the body is read. The rest of such a body is read and
discarded, so that the client can read its answer.
Rule 2: a client that disconnects ends the work for its request.
Rule 3: a client that reads nothing for ``send_timeout`` is cut.
Rule 4: every answer has an x-request-id. Every error is rendered here: as a status before the head is sent, and as
an event of the stream after it. An error is one line in the log and quotes nothing of the request.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from api.http.allowed_hosts import Hosts, RequestHead, is_admin
from api.http.body import PARSED, Bodies, Body, ClientDisconnected, Message, Receive
from api.http.errors import DialectOf, ErrorAnswer, OpenAIErrors, RequestError, answer_to
from api.http.keys import Keys, current_key
from api.http.respond import EVENT_STREAM, one_line
from api.http.router import Route, Routes, tidy
from api.http.served import Served, Tally, served
from api.http.wrong_paths import advice
from shared.errors import Draining, ServingError
from shared.settings import Settings

log = logging.getLogger(__name__)

Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

# The ASGI extensions that api.http.connection provides.
ABORT, CLOSING, TARGET = "mlx_server.abort", "mlx_server.closing", "mlx_server.target"
CLIENT_LEFT = 499  # nginx's status for it; no client gets it
NO_ROUTE = "none"
FORM, TAKE_FORMS = b"multipart/form-data", ("/v1/audio/transcriptions",)
OTHER_VERSION = "This server speaks HTTP/1.1."
MAX_HEADERS = 64 << 10  # bytes
MAX_TARGET = 8 << 10  # bytes
_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_FIELD = re.compile(
    r"[a-z_]{1,64}(?:\[\d{1,9}\])?"
)  # a field of the schema; deeper parts may be keys of the client's


class Guard:
    def __init__(
        self,
        app: App,
        settings: Settings,
        routes: Routes | None = None,
        error_dialect: DialectOf = lambda path, headers: OpenAIErrors(),
        tally: Tally | None = None,
    ) -> None:
        """Without ``routes`` the app gets every path; without ``tally`` nothing is counted."""
        self.app = app
        self.settings = settings
        self.routes = routes
        self.error_dialect = error_dialect
        self.tally = tally
        self.hosts = Hosts(settings)
        self.keys = Keys(settings)
        self.bodies = Bodies(settings)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Exchange(self, scope, receive, send).run()
        else:
            await self.app(scope, receive, send)


class Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Message, receive: Receive, send: Send) -> None:
        self._guard = guard
        self._patience = guard.settings.send_timeout
        self._path = tidy(scope["path"])
        self._scope = {**scope, "path": self._path}
        self._receive = receive
        self._asgi_send = send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._extensions = scope.get("extensions", {})
        self._request_head = RequestHead(
            path=self._path,
            http_version=scope["http_version"],
            target=self._extensions.get(TARGET, self._path),
            headers=scope["headers"],
            server=scope.get("server"),
            client=scope.get("client"),
        )
        self._errors = guard.error_dialect(self._path, self._headers)
        self._route: Route | None = None
        self._served = Served()
        self._status = 0  # of the answer; of a stream that ended with an error, the error's
        self._request_id = self._theirs_or_new()
        self._loop = asyncio.get_running_loop()
        self._body = Body(guard.bodies, self._headers, receive)
        self._head_sent = self._ended = self._streams = self._counted = False
        self._sending_since: float | None = None

    async def run(self) -> None:
        served.set(self._served)
        try:
            await self._exchange()
        except ClientDisconnected:
            self._status = CLIENT_LEFT
            self._abort()
        finally:
            self._body.release()
            self._count()

    def _count(self) -> None:
        """Once."""
        if (tally := self._guard.tally) and not self._counted:
            self._counted = True
            tally.answered(self._route.template if self._route else NO_ROUTE, self._status, self._served)

    async def _exchange(self) -> None:
        try:
            self._check_head()
            self._guard.hosts.check(self._request_head)
            if (granted := self._preflight()) is not None:
                await self._send_whole(204, granted, b"")
                return
            key = self._guard.keys.check(self._path, self._headers)
            current_key.set(key)
            self._served.key = key.name if key else ""
            self._check_route()
            self._body.check()
            await self._serve(await self._body.read())
        except ClientDisconnected:
            raise
        except asyncio.CancelledError:  # the ASGI server cancels what still runs at its end
            await self._answer(Draining("The server is stopping and cannot finish this.", retry_after=5))
        except Exception as error:  # noqa: BLE001 - the resource boundary
            await self._answer(error)

    # ---- in

    def _check_head(self) -> None:
        if self._scope["http_version"] not in ("1.0", "1.1"):
            raise RequestError(505, OTHER_VERSION)
        if sum(len(name) + len(value) for name, value in self._scope["headers"]) > MAX_HEADERS:
            raise RequestError(431, f"The headers are larger than {MAX_HEADERS} bytes.")
        if len(self._scope["path"]) + len(self._scope.get("query_string", b"")) > MAX_TARGET:
            raise RequestError(414, f"The URL is longer than {MAX_TARGET} bytes.")

    def _check_route(self) -> None:
        """An unknown path or method is refused before a wrong content type."""
        routes, method = self._guard.routes, self._scope["method"]
        if routes is not None:
            self._route = routes.at(self._path)
            if self._route is None:
                raise RequestError(404, advice(self._path, routes.templates))
            if method not in (methods := self._route.methods):
                sentence = f"{self._route.template} answers {', '.join(methods)}, and not {method}."
                raise RequestError(405, sentence, {"allow": ", ".join(methods)})
        kind = self._headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        wanted = FORM if self._path in TAKE_FORMS else b"application/json"
        if method == "POST" and not self._body.whole and kind != wanted:
            raise RequestError(415, f"The content type must be {wanted.decode()}.")

    def _preflight(self) -> list[tuple[bytes, bytes]] | None:
        if self._scope["method"] != "OPTIONS":
            return None
        route = self._guard.routes.at(self._path) if self._guard.routes else None
        methods = route.methods if route else ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
        return self._guard.hosts.preflight(self._request_head, methods)

    # ---- the work, and what may end it

    async def _serve(self, body: bytes) -> None:
        work = asyncio.create_task(self._work([body]))
        del body  # only the work refers to it, and drops it once it is parsed
        left = asyncio.create_task(self._left())
        try:
            while not work.done():
                waiting_for = {work} if self._ended else {work, left}
                await asyncio.wait(
                    waiting_for, timeout=self._patience / 4, return_when=asyncio.FIRST_COMPLETED
                )
                if not work.done() and (self._stuck() or (left.done() and not self._ended)):
                    raise ClientDisconnected
                if not work.done() and is_admin(self._path):  # a stream of events has no end of its own
                    self._guard.keys.check(self._path, self._headers)
            work.result()
        finally:
            left.cancel()
            work.cancel()
            await asyncio.wait({work, left})

    async def _work(self, body: list[bytes]) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": body.pop() if body else b"", "more_body": False}

        length = (
            b"content-length",
            b"%d" % len(body[0]),
        )  # Falcon reads as much; the body may have been unpacked
        headers = [(name, value) for name, value in self._scope["headers"] if name != b"content-length"]
        scope = {
            **self._scope,
            "headers": [*headers, length],
            "extensions": {**self._extensions, PARSED: self._body.release},
        }
        await self._guard.app(scope, receive, self._send)

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _stuck(self) -> bool:
        since = self._sending_since
        return since is not None and self._loop.time() - since > self._patience

    def _abort(self) -> None:
        """Without the extension, the ASGI server closes a connection whose answer is incomplete."""
        if abort := self._extensions.get(ABORT):
            abort()

    # ---- out

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head_sent = True
            self._status = message.get("status", 200)
            names = {b"x-request-id", self._errors.request_id_header}
            headers = [*message.get("headers", ()), *((name, self._request_id.encode()) for name in names)]
            headers += self._guard.hosts.sharing(self._request_head)
            self._streams = any(value.startswith(EVENT_STREAM.encode()) for _, value in headers)
            message = {**message, "headers": headers}
        elif not message.get("more_body", False):
            self._ended = True
            self._count()  # before its client can know the answer
        self._sending_since = self._loop.time()
        try:
            await self._asgi_send(message)
        except RuntimeError:  # uvloop raises it when its transport is closed
            if (closing := self._extensions.get(CLOSING)) and closing():
                raise ClientDisconnected from None
            raise
        self._sending_since = None

    def _theirs_or_new(self) -> str:
        for name in (b"x-request-id", b"x-client-request-id"):
            if _SANE_ID.fullmatch(theirs := self._headers.get(name, b"")):
                return theirs.decode()
        return "req_" + secrets.token_hex(16)

    async def _answer(self, error: Exception) -> None:
        answer = answer_to(error)
        self._log(answer, error)
        if self._guard.tally:
            self._guard.tally.refused(answer.code or answer.type)
        if not self._head_sent:
            await self._refuse(answer)
        elif self._streams and not self._ended:
            event = one_line(self._errors.event(answer, self._request_id))
            self._status = self._errors.status(answer)
            await self._send({"type": "http.response.body", "body": event})
        else:
            self._abort()

    def _log(self, answer: ErrorAnswer, error: Exception) -> None:
        """A path that is no route may hold any text: as a literal it is one line."""
        asked = f"{self._scope['method']} {self._route.template if self._route else ascii(self._path[:100])}"
        found = _FIELD.match(answer.param or "")
        field = f" {found[0]}" if found else ""
        bug = None if isinstance(error, ServingError) else error
        log.log(
            logging.ERROR if bug else logging.INFO,
            "%s: %s is answered with %d %s%s",
            self._request_id,
            asked,
            self._errors.status(answer),
            answer.code or answer.type,
            field,
            exc_info=bug,
        )

    async def _refuse(self, answer: ErrorAnswer) -> None:
        body = one_line(self._errors.body(answer, self._request_id))
        headers = {"content-type": "application/json", **answer.headers}
        if not self._body.whole:
            headers["connection"] = "close"
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send_whole(self._errors.status(answer), raw, body)

    async def _send_whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Ends the answer after the body, as the connection closes then and an early close would cut the answer off."""
        if status != 204:
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        await self._body.discard()
        await self._send({"type": "http.response.body"})
