"""The client, against servers of one answer each."""

import asyncio

import pytest

from benchmarks.client import Failed, Reply, complete, gives_text, text_of
from tests.client import Event

TEXT = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}\n\n'
DONE = b"data: [DONE]\n\n"
PLAIN = b"HTTP/1.0 200 OK\r\nContent-type: text/event-stream\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def ask(answer: bytes) -> Reply:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def both() -> Reply:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await complete(port, {}, keep_text=True)

    return asyncio.run(both())


@pytest.mark.parametrize(
    "answer",
    [
        PLAIN + b": keepalive 1/5\n\n" + TEXT + USAGE + DONE,
        CHUNKED + chunk(TEXT + USAGE[:9]) + chunk(USAGE[9:]) + chunk(DONE) + chunk(b""),
    ],
    ids=["HTTP/1.0", "HTTP/1.1 in chunks"],
)
def test_both_kinds_of_streams_are_read(answer: bytes) -> None:
    reply = ask(answer)
    assert (reply.text, reply.completion_tokens, len(reply.arrivals)) == ("a", 1, 1)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\nno such model", "404.*no such model"),
        (PLAIN + TEXT, "broke off after 1"),
        (PLAIN + b'data: {"error": {"message": "gone"}}\n\n', "gone"),
        (b"", "IncompleteReadError"),
        (b"hello\r\n\r\n", "ValueError"),
    ],
)
def test_what_goes_wrong_is_named(answer: bytes, why: str) -> None:
    with pytest.raises(Failed, match=why):
        ask(answer)


def test_a_port_that_nobody_listens_on_is_a_failure() -> None:
    with pytest.raises(Failed, match="Connection"):
        asyncio.run(complete(1, {}))


OURS = b'{"choices":[{"index":0,"delta":{"content":" a"},"logprobs":null,"finish_reason":null}],"usage":null}'
THEIRS = (
    b'{"choices": [{"index": 0, "finish_reason": null, "delta": {"role": "assistant", "content": " a"}}]}'
)
ROLE = b'{"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null}}],"usage":null}'
COUNTED = b'{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}'


@pytest.mark.parametrize("data", [OURS, THEIRS])
def test_an_event_with_text_counts(data: bytes) -> None:
    assert gives_text(Event("", data))
    assert text_of(Event("", data)) == " a"


@pytest.mark.parametrize("data", [ROLE, COUNTED, b'{"choices":[{"delta":{"content":null}}]}'])
def test_an_event_without_text_does_not_count(data: bytes) -> None:
    assert not gives_text(Event("", data))
    assert text_of(Event("", data)) == ""


def test_a_text_that_speaks_of_an_error_is_none() -> None:
    spoken = b"data: " + OURS.replace(b" a", b'{\\"error\\"') + b"\n\n"
    assert ask(PLAIN + spoken + DONE).text == '{"error"'
