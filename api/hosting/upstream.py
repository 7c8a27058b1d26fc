"""Asks hosted servers by HTTP on loopback; every way in which they can fail becomes one error.

Rule 1: no header of a client but those of PASSED_ON reaches a hosted server: keys are for this server alone.
Rule 2: each request has a connection of its own.
Rule 3: the end of the task that asked closes the connection, by which a server sees that its client is gone.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx

from api.http.respond import EVENT_STREAM
from shared.errors import HostedServerFailed

CONNECT = 5.0  # seconds
SILENCE = 600.0  # seconds in which a server sends nothing
PASSED_ON = ("content-type", "accept", "anthropic-version", "anthropic-beta", "openai-beta")
MOST_WHOLE = 64 << 20  # bytes of an answer that is one object
MOST_TOLD = 200  # characters of an answer that is no JSON, in an error
JSON = "application/json"


class Upstream:
    """An answer whose head has come, and its first piece; empty: it has no body."""

    def __init__(self, model: str, answer: httpx.Response) -> None:
        self._model = model
        self._answer = answer
        self._pieces = answer.aiter_bytes()  # some compress whatever was asked for
        self.first = b""

    @property
    def status(self) -> int:
        return self._answer.status_code

    @property
    def headers(self) -> Mapping[str, str]:
        return self._answer.headers

    @property
    def kind(self) -> str:
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()

    @property
    def is_events(self) -> bool:
        return self.status < 400 and self.kind == EVENT_STREAM

    async def piece(self) -> bytes:
        """The next one; empty at the end. Raises HostedServerFailed."""
        try:
            async for piece in self._pieces:
                if piece:
                    return piece
        except httpx.HTTPError as error:
            raise _failed(self._model, error) from error
        return b""

    async def whole(self) -> bytes:
        """Raises HostedServerFailed."""
        data, piece = bytearray(), self.first
        while piece:
            data += piece
            if len(data) > MOST_WHOLE:
                raise HostedServerFailed(
                    f"The server of {self._model!r} answers with more than {MOST_WHOLE} bytes."
                )
            piece = await self.piece()
        await self.close()
        return bytes(data)

    async def close(self) -> None:
        """May be called twice."""
        await self._answer.aclose()


class Upstreams:
    """The client of this process for hosted servers. The first request makes their client, which takes a while."""

    def __init__(self) -> None:
        self._client: httpx.AsyncClient | None = None

    async def ask(
        self,
        model: str,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        owner: "asyncio.Task[Any] | None" = None,
    ) -> Upstream:
        """Raises HostedServerFailed while no byte of an answer has come.

        ``owner``: the task whose end is the end of the connection; else the one that asks.
        """
        sent = {name: headers[name] for name in PASSED_ON if name in headers}
        client = self._client = self._client or _client()
        request = client.build_request(
            "POST", url, content=body, headers={"accept-encoding": "identity", **sent}
        )
        try:
            answer = await client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise _failed(model, error) from error
        upstream = Upstream(model, answer)
        loop, owner = asyncio.get_running_loop(), owner or asyncio.current_task()
        assert owner is not None
        owner.add_done_callback(lambda _: loop.create_task(upstream.close()))
        if not (200 <= upstream.status < 300 or 400 <= upstream.status < 600):
            raise HostedServerFailed(
                f"The server of {model!r} answered with status {upstream.status}, neither an answer nor an error."
            )
        upstream.first = await upstream.piece()
        return upstream

    async def close(self) -> None:
        if self._client:
            await self._client.aclose()


def _client() -> httpx.AsyncClient:
    """Proxies of the environment are for other machines.

    No connection is used twice: what a server that has gone wrong says too much would be the answer to the next
    request, which may be somebody else's. One on loopback costs less than a millisecond.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    timeout = httpx.Timeout(SILENCE, connect=CONNECT)
    return httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False)


def _failed(model: str, error: httpx.HTTPError) -> HostedServerFailed:
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout():
            how = "takes no connection"
        case httpx.TimeoutException():
            how = f"sent nothing for {SILENCE:.0f} s"
        case httpx.RemoteProtocolError() if "disconnected" in str(error) or "closed connection" in str(error):
            how = "closed the connection before its answer was whole"
        case httpx.RemoteProtocolError() | httpx.DecodingError():
            how = "answered with what is no HTTP"
        case _:
            how = "broke the connection before its answer was whole"
    return HostedServerFailed(f"The server of {model!r} {how}.")


def no_json(model: str, upstream: Upstream, said: bytes) -> HostedServerFailed:
    """Of an answer that is not in the form of its endpoint."""
    text = " ".join(said[: 4 * MOST_TOLD].decode(errors="replace").split())[:MOST_TOLD]
    return HostedServerFailed(
        f"The server of {model!r} answered with status {upstream.status} and what is no JSON object: {text!a}"
    )
