"""``python -m tests.programs.hostile_crowd PORT``: clients that cost a server much and give it nothing.

Sockets that say nothing, readers that read almost nothing of a long answer, and one body of a GiB in chunks: 500, 200
and one, unless told otherwise. All come at once; silent ones that are cut come again. It ends at SIGTERM, or after
``--seconds``, and prints as JSON what the body was answered with.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import socket

from tests.client import HOST, post

PIECE = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
READ_EVERY = 0.5  # seconds
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


async def silent(port: int) -> None:
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(HOST, port)
            with contextlib.closing(writer):
                await reader.read()
        await asyncio.sleep(0.5)


async def slow(port: int, number: int) -> None:
    """Every tenth reads a streamed answer, the others the reference."""
    body = {
        "model": "b",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 400,
        "seed": number,
        "stream": True,
        "logprobs": True,
    }
    asked = post(port, body) if number % 10 == 0 else b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    with connection, contextlib.suppress(OSError):
        await loop.sock_connect(connection, (HOST, port))
        await loop.sock_sendall(connection, asked)
        while await loop.sock_recv(connection, 64):  # noqa: ASYNC110 (it reads slowly, and waits for nothing)
            await asyncio.sleep(READ_EVERY)


async def endless(port: int, size: int) -> str:
    """The status line that the body is answered with, and how much of it was sent until the connection was closed."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(HEAD)
    sent, answer = 0, asyncio.create_task(reader.readline())
    with contextlib.closing(writer), contextlib.suppress(ConnectionError):
        while sent < size:
            writer.write(PIECE)
            await writer.drain()
            sent += len(PIECE)
    (line,) = await asyncio.gather(answer, return_exceptions=True)
    return f"{line!r} after {sent >> 20} MiB"


async def play(port: int, sockets: int, readers: int, size: int, seconds: float) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    crowd = [asyncio.create_task(silent(port)) for _ in range(sockets)]
    crowd += [asyncio.create_task(slow(port, number)) for number in range(readers)]
    body = asyncio.create_task(endless(port, size))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
    for task in crowd:
        task.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    (said,) = await asyncio.gather(asyncio.wait_for(body, 10), return_exceptions=True)
    print(json.dumps({"body": str(said)}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--sockets", type=int, default=500)
    parser.add_argument("--readers", type=int, default=200)
    parser.add_argument("--bytes", type=int, default=1 << 30)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    asyncio.run(play(options.port, options.sockets, options.readers, options.bytes, options.seconds))


if __name__ == "__main__":
    main()
