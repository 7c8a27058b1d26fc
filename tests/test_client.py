"""The one client: events and HTTP framing, however the network cut them."""

import pytest

from tests.client import DONE, Chunked, Event, EventReader, Head, body_of, chunks, events, parse_head, post

HEAD_10 = b"HTTP/1.0 200 OK\r\nContent-type: text/event-stream\r\n\r\n"
HEAD_11 = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: Chunked\r\n\r\n"
CHUNKS = b"5\r\nhello\r\n1;x=y\r\n \r\nA\r\n0123456789\r\n0\r\n\r\n"
STREAM = b': keep-alive\n\ndata: {"a": 1}\n\ndata:two\ndata: lines\n\nevent: x\n\nevent: y\ndata: 3\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_events_are_whole_however_they_were_cut(size: int) -> None:
    reader, data = EventReader(), STREAM + b"data: unfini"
    found = [event for at in range(0, len(data), size) for event in reader.feed(data[at : at + size])]
    assert found == [Event("", b'{"a": 1}'), Event("", b"two\nlines"), Event("y", b"3"), Event("", DONE)]
    assert (reader.comments, reader.rest) == (1, b"data: unfini")


def test_a_body_that_ends_within_an_event_is_no_whole_body() -> None:
    assert len(events(STREAM)) == 4
    with pytest.raises(AssertionError, match="middle of an event"):
        events(STREAM[:-1])


def test_the_chunks_of_a_stream_are_its_json_without_the_end() -> None:
    assert list(chunks([b'data: {"a"', b': 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n'])) == [
        {"a": 1},
        {"b": 2},
    ]


@pytest.mark.parametrize(("data", "chunked"), [(HEAD_10, False), (HEAD_11, True)])
def test_both_versions_of_http_have_a_head(data: bytes, chunked: bool) -> None:
    head = parse_head(data)
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    assert isinstance(body_of(head), Chunked) is chunked


@pytest.mark.parametrize("data", [b"220 mail.example ESMTP\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1\r\n\r\n"])
def test_what_is_not_http_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"HTTP|unpack"):
        parse_head(data)


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(CHUNKS)])
def test_chunks_of_http_are_joined_however_they_were_cut(size: int) -> None:
    body = Chunked()
    parts = [body.feed(CHUNKS[at : at + size]) for at in range(0, len(CHUNKS), size)]
    assert b"".join(parts) == b"hello 0123456789"


def test_a_body_without_chunks_is_left_alone() -> None:
    assert body_of(Head(200, {})).feed(CHUNKS) == CHUNKS


def test_a_request_says_how_long_it_is() -> None:
    head, _, content = post(80, {"stream": True}).partition(b"\r\n\r\n")
    assert content == b'{"stream": true}'
    assert b"Content-Length: 16" in head.split(b"\r\n")
