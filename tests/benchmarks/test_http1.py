"""Answers as a client reads them."""

import pytest

from benchmarks.http1 import Chunked, Head, body_of, parse_head, post

HEAD_10 = b"HTTP/1.0 200 OK\r\nContent-type: text/event-stream\r\n\r\n"
HEAD_11 = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: Chunked\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n1;x=y\r\n \r\nA\r\n0123456789\r\n0\r\n\r\n"


@pytest.mark.parametrize(("data", "head"), [(HEAD_10, Head(200, False)), (HEAD_11, Head(200, True))])
def test_both_versions_have_a_head(data: bytes, head: Head) -> None:
    assert parse_head(data) == head


@pytest.mark.parametrize("data", [b"220 mail.example ESMTP\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1\r\n\r\n"])
def test_what_is_not_http_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"HTTP|unpack"):
        parse_head(data)


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(CHUNKS)])
def test_chunks_are_joined_however_they_were_cut(size: int) -> None:
    body = Chunked()
    parts = [body.feed(CHUNKS[at : at + size]) for at in range(0, len(CHUNKS), size)]
    assert b"".join(parts) == b"hello 0123456789"


def test_a_body_without_chunks_is_left_alone() -> None:
    assert body_of(Head(200, False)).feed(CHUNKS) == CHUNKS


def test_a_request_says_how_long_it_is() -> None:
    head, _, content = post("127.0.0.1", 80, "/v1", {"stream": True}).partition(b"\r\n\r\n")
    assert content == b'{"stream": true}'
    assert b"Content-Length: 16" in head.split(b"\r\n")
