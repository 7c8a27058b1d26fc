"""Requests as bytes: bodies in chunks, offers of other protocols, what stands behind a body."""

from typing import Any

import pytest

from api.http.guard import Guard
from shared.settings import Settings
from tests.api.conftest import serve
from tests.api.http.test_guard import HEALTH, POST, connect, read_until_end

OFFERS = {
    "HTTP/2": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    "a WebSocket": b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "none": b"",
}
BODIES = {
    "with a length": b"Content-Length: 3\r\n\r\nabc",
    "in chunks": b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=y\r\nbc\r\n0\r\n\r\n",
    "none": b"Content-Length: 0\r\n\r\n",
}
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def echoes(scope: Any, receive: Any, send: Any) -> None:
    """An app that answers with the body between brackets, and with the names of the head's fields."""
    body = b"[%s]" % (await receive())["body"]
    names = b" ".join(name for name, _ in scope["headers"])
    headers = [(b"content-length", b"%d" % len(body)), (b"x-names", names)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def answered(*pieces: bytes) -> bytes:
    """All answers, until the server closes."""
    with serve(Guard(echoes, Settings()), lifespan="off") as port, connect(port) as client:
        for piece in pieces:
            client.sendall(piece)
        return read_until_end(client)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
def test_a_request_that_offers_another_protocol_is_read_with_its_body_and_so_is_the_next(
    offer: str, body: str, split: bool
) -> None:
    request = POST + OFFERS[offer] + BODIES[body]
    last = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    sent = request * 2 + last
    said = answered(*([sent[i : i + 1] for i in range(len(sent))] if split else [sent]))
    assert said.count(b"HTTP/1.1 200 ") == 3
    assert said.count(b"[abc]") == (0 if body == "none" else 2)


def test_fields_behind_a_body_are_no_part_of_the_head() -> None:
    close = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    said = answered(close + b"3\r\nabc\r\n0\r\nX-Behind: 1\r\nHost: localhost\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"[abc]" in said
    assert b"x-behind" not in said.lower()


def test_a_host_that_comes_behind_the_body_is_no_host() -> None:
    without = CHUNKED.replace(b"Host: localhost\r\n", b"Connection: close\r\n")
    assert answered(without + b"0\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "garbage",
    [b"-5\r\nabc", b"0x3\r\nabc", b"g\r\n", b"3\nabc\n0\n\n", b"3\r\nabcXX", b"1" + b"F" * 16 + b"\r\nabc"],
)
def test_a_body_whose_chunks_are_none_is_a_400(garbage: bytes) -> None:
    said = answered(CHUNKED, garbage)
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1 ") == 1


def test_garbage_behind_a_whole_request_is_no_part_of_its_answer() -> None:
    assert b"400" not in answered(HEALTH + b"garbage\r\n\r\n")


def test_an_http_1_0_request_gets_no_answer_before_its_answer() -> None:
    old = POST.replace(b"HTTP/1.1", b"HTTP/1.0") + b"Expect: 100-continue\r\n" + BODIES["with a length"]
    said = answered(old)
    assert b" 100 " not in said
    assert b"[abc]" in said
