"""The guard around small ASGI apps."""

import asyncio
import contextlib
import gzip
import json
import logging
import socket
import time
import zlib
from typing import Any

import httpx
import pytest

from api.http.body import GRACE
from api.http.connection import MAX_AHEAD, Connection
from api.http.guard import ABORT, CLOSING, MAX_HEADERS, Guard
from api.http.respond import one_line
from shared.errors import QueueFull
from shared.settings import Settings
from tests.api.conftest import Stack, serve
from tests.api.fake_broker import DEADLINE

EVENTS = [(b"content-type", b"text/event-stream")]


def fails(error: Exception, head: list[tuple[bytes, bytes]] | None) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if head is not None:
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        raise error

    return Guard(app, Settings())


def get(app: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    with serve(app, lifespan="off") as port:
        return httpx.get(f"http://127.0.0.1:{port}/", timeout=DEADLINE, headers=headers)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), DEADLINE)


def test_an_unexpected_exception_is_a_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
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


def test_an_error_after_the_head_of_a_plain_answer_cuts_the_connection() -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        get(fails(RuntimeError("x"), []))


def test_large_headers_are_refused() -> None:
    response = get(fails(RuntimeError("x"), None), {"x-large": "x" * MAX_HEADERS})
    assert response.status_code == 431


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_connection_without_a_request_is_cut(said: bytes) -> None:
    class Impatient(Connection):
        patience = 0.1

    app = fails(RuntimeError("x"), None)
    with serve(app, http=Impatient, lifespan="off") as port, connect(port) as client:
        client.sendall(said)
        assert client.recv(1) == b""


def test_a_connection_whose_headers_never_end_is_cut() -> None:
    app = fails(RuntimeError("x"), None)
    with serve(app, lifespan="off") as port, connect(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            client.sendall((b"x-more: " + b"x" * 1000 + b"\r\n") * 10_000)


# ---- what one client may take


class Impatient(Connection):
    patience = 0.3


HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers with the length of the body."""
    body = b"%d" % len((await receive())["body"])
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})


def read_until_end(client: socket.socket) -> bytes:
    said = b""
    try:
        while piece := client.recv(1 << 16):
            said += piece
    except ConnectionResetError:
        pass
    return said


@pytest.mark.parametrize("half", [b"G", b"GET /health HTT", HEALTH[:-2], b"\r\n"])
def test_an_incomplete_later_request_of_a_connection_is_cut(half: bytes) -> None:
    with serve(Guard(answers, Settings()), http=Impatient, lifespan="off") as port, connect(port) as client:
        client.sendall(HEALTH)
        said = client.recv(1 << 16)
        while not said.endswith(b"\r\n\r\n0"):  # head and body may come apart
            said += client.recv(1 << 16)
        assert said.startswith(b"HTTP/1.1 200 ")
        client.sendall(half)
        assert read_until_end(client) == b""


def test_a_slow_answer_is_not_cut_by_the_time_limit_of_request_heads() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(2 * Impatient.patience)
        await answers(scope, receive, send)

    with serve(Guard(slow, Settings()), http=Impatient, lifespan="off") as port, connect(port) as client:
        client.sendall(HEALTH)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_arrives_too_slowly_is_given_up() -> None:
    with serve(Guard(answers, Settings(body_timeout=0.5)), lifespan="off") as port, connect(port) as client:
        client.sendall(POST + b"Content-Length: 100000\r\n\r\n{")
        client.settimeout(0.05)
        for _ in range(100):
            client.sendall(b" ")
            try:
                assert client.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
                return
            except TimeoutError:
                continue
        raise AssertionError("it dripped for five seconds")


def test_the_body_that_has_been_arriving_longest_is_evicted_when_all_hold_too_much() -> None:
    settings = Settings(bodies_bytes=1 << 20)
    with serve(Guard(answers, settings), lifespan="off") as port, connect(port) as old, connect(port) as new:
        old.sendall(POST + b"Content-Length: 1000000\r\n\r\n" + b" " * 900_000)
        time.sleep(GRACE + 0.2)
        new.sendall(POST + b"Content-Length: 900000\r\n\r\n" + b" " * 900_000)
        assert new.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert old.recv(1 << 16).startswith(b"HTTP/1.1 503 ")


def test_too_many_pipelined_requests_are_cut() -> None:
    with serve(Guard(answers, Settings()), lifespan="off") as port, connect(port) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(HEALTH * 4000)
        assert read_until_end(client).count(b"HTTP/1.1 200 ") <= 2 * MAX_AHEAD


@pytest.mark.parametrize(
    ("version", "status"),
    [
        *(
            (version, b"505")
            for version in (b"HTTP/2.0", b"HTTP/1.2", b"HTTP/3", b"HTTP/11", b"HTTP/9.9", b"")
        ),
        *((version, b"200") for version in (b"HTTP/1.0", b"HTTP/1.1")),
    ],
)
def test_other_versions_of_http_get_a_505(version: bytes, status: bytes) -> None:
    with serve(Guard(answers, Settings()), lifespan="off") as port, connect(port) as client:
        client.sendall(
            b"GET /health " + version + b"\r\nHost: localhost\r\n\r\n" if version else b"GET /health\r\n\r\n"
        )
        assert client.recv(1 << 16).split()[1] == status


@pytest.mark.parametrize("said", [b"GET /health\r\n", b"GET /\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_the_first_bytes_of_older_and_newer_http_get_a_505_at_once(said: bytes) -> None:
    with serve(Guard(answers, Settings()), lifespan="off") as port, connect(port) as client:
        client.sendall(said)
        assert read_until_end(client).startswith(b"HTTP/1.1 505 ")


def test_an_http_1_0_answer_without_a_length_is_not_chunked_and_ends_with_its_connection() -> None:
    async def streams(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
        for _ in range(2):
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    with serve(Guard(streams, Settings()), lifespan="off") as port, connect(port) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = read_until_end(client).partition(b"\r\n\r\n")
    assert body == b"data: 1\n\ndata: 1\n\ndata: 2\n\n"
    assert b"chunked" not in head


BODY = b'{"model": "tiny", "prompt": "' + b"a" * 1000 + b'"}'


@pytest.mark.parametrize(
    ("encoding", "packed", "status"),
    [
        ("gzip", gzip.compress(BODY), 200),
        ("deflate", zlib.compress(BODY), 200),
        ("deflate", zlib.compress(b"{}", wbits=-15), 200),
        ("identity", BODY, 200),
        ("gzip", gzip.compress(b" " * (33 << 20)), 413),
        ("gzip", gzip.compress(BODY)[:-9], 400),
        ("gzip", BODY, 400),
        ("zstd", BODY, 415),
        ("gzip, gzip", BODY, 415),
    ],
    ids=["gzip", "zlib", "raw", "plain", "bomb", "cut off", "no gzip", "zstd", "twice"],
)
def test_a_compressed_body_is_unpacked_within_bounds(encoding: str, packed: bytes, status: int) -> None:
    with serve(Guard(answers, Settings()), lifespan="off") as port:
        headers = {"content-encoding": encoding, "content-type": "application/json"}
        response = httpx.post(f"http://127.0.0.1:{port}/", content=packed, headers=headers, timeout=DEADLINE)
    assert response.status_code == status
    assert status != 415 or "gzip" in response.headers["accept-encoding"]


@pytest.mark.parametrize("closing", [True, False])
def test_a_write_that_fails_is_a_failure_unless_the_client_has_left(
    closing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """uvloop raises RuntimeError for a connection that it has closed and not told of yet."""

    async def send(message: Any) -> None:
        raise RuntimeError("the handler is closed")

    async def receive() -> Any:
        await asyncio.Event().wait()  # a request without a body that the client goes on waiting for

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/health",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "extensions": {CLOSING: lambda: closing, ABORT: lambda: None},
    }
    with contextlib.suppress(RuntimeError):
        asyncio.run(Guard(answers, Settings())(scope, receive, send))
    assert any(record.exc_info for record in caplog.records) is not closing


def test_a_compressed_body_counts_unpacked_among_all_bodies() -> None:
    """Else a thousand small bodies would hold as much as they may have unpacked."""
    with serve(Guard(answers, Settings(bodies_bytes=1 << 20)), lifespan="off") as port:
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        packed = gzip.compress(b" " * (2 << 20))
        response = httpx.post(f"http://127.0.0.1:{port}/", content=packed, headers=headers, timeout=DEADLINE)
    assert response.status_code == 503


def test_a_refusal_is_one_line_in_the_log_that_quotes_nothing(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        stack.chat(logit_bias={"my secret\nwords": "x"})
        stack.client.post("/no%0Asuch%1b", json={})
    lines = [record.getMessage() for record in caplog.records if "is answered with" in record.getMessage()]
    assert [line.partition(": ")[2].split()[-2:] for line in lines[:1]] == [["invalid_value", "logit_bias"]]
    assert len(lines) == 2
    assert not any("\n" in line or "\x1b" in line or "secret" in line or "my" in line for line in lines)


def test_unicode_line_separators_are_escaped_in_answers() -> None:
    text = "a\u2028b\u2029c\u0085d"
    escaped = one_line(json.dumps(text, ensure_ascii=False).encode())
    assert json.loads(escaped) == text
    assert escaped.decode().splitlines() == [escaped.decode()]
