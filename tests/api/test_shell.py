"""The guard itself, around apps of a few lines."""

import json
import socket
from typing import Any

import httpx
import pytest

from api.connection import Connection
from api.shell import MAX_HEADERS, Shell
from shared.errors import QueueFull
from shared.settings import Settings
from tests.api.conftest import serve
from tests.api.fake_broker import DEADLINE

EVENTS = [(b"content-type", b"text/event-stream")]


def fails(error: Exception, head: list[tuple[bytes, bytes]] | None) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if head is not None:
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        raise error

    return Shell(app, Settings())


def get(app: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    with serve(app, lifespan="off") as port:
        return httpx.get(f"http://127.0.0.1:{port}/", timeout=DEADLINE, headers=headers)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), DEADLINE)


def test_a_bug_is_a_500_that_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    response = get(fails(RuntimeError("secret"), None))
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    assert "secret" not in response.text
    assert "secret" in caplog.text
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("x"), "internal_error"), (QueueFull("x"), "queue_full")]
)
def test_an_error_in_an_event_stream_is_its_last_event(error: Exception, code: str) -> None:
    first, last = get(fails(error, EVENTS)).text.removesuffix("\n\n").split("\n\n")
    assert first == "data: 1"
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == code


def test_an_error_in_any_other_answer_cuts_it() -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        get(fails(RuntimeError("x"), []))


def test_large_headers_are_refused() -> None:
    response = get(fails(RuntimeError("x"), None), {"x-large": "x" * MAX_HEADERS})
    assert response.status_code == 431


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_connection_that_never_asks_is_cut(said: bytes) -> None:
    class Impatient(Connection):
        patience = 0.1

    app = fails(RuntimeError("x"), None)
    with serve(app, http=Impatient, lifespan="off") as port, connect(port) as client:
        client.sendall(said)
        assert client.recv(1) == b""


def test_headers_without_end_are_cut() -> None:
    app = fails(RuntimeError("x"), None)
    with serve(app, lifespan="off") as port, connect(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            client.sendall((b"x-more: " + b"x" * 1000 + b"\r\n") * 10_000)
