"""How hosted servers are asked: over real connections to a server that says what it likes."""

import asyncio
from contextlib import suppress

from api.hosting.upstream import Upstreams


async def answers(requests: int) -> list[bytes]:
    """Of a server that says on each connection which one it is."""
    connections: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(connections)
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n{}"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % number)
        writer.close()
        await writer.wait_closed()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.ensure_future(serve(reader, writer)))

    upstreams, server = Upstreams(), await asyncio.start_server(connected, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
    try:
        return [await (await upstreams.ask("m", url, b"{}", {})).whole() for _ in range(requests)]
    finally:
        await upstreams.close()
        await asyncio.gather(*connections)
        server.close()


def test_each_request_has_a_connection_of_its_own_so_that_none_gets_what_was_said_to_another() -> None:
    assert asyncio.run(answers(3)) == [b"1", b"2", b"3"]
