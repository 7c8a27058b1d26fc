"""What a server that stops says to those it cannot serve to the end."""

import asyncio
import json
from typing import Any

import pytest

from api.http.body import Message, Receive
from api.http.guard import Send, Shell
from shared.settings import Settings

GET = {"type": "http", "http_version": "1.0", "method": "GET", "path": "/", "headers": []}


async def cut_short(begins: bool) -> list[Message]:
    """What a client gets whose request is cancelled; ``begins``: a stream had begun."""
    sent: list[Message] = []
    waits = asyncio.Event()

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if begins:
            await send({"type": "http.response.start", "headers": [(b"content-type", b"text/event-stream")]})
        waits.set()
        await asyncio.Event().wait()

    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def send(message: Message) -> None:
        sent.append(message)

    task = asyncio.create_task(Shell(app, Settings())(GET, messages.get, send))
    await waits.wait()
    task.cancel()
    await asyncio.wait({task})
    return sent


@pytest.mark.parametrize("begins", [False, True])
def test_what_a_stopping_server_cannot_finish_ends_with_an_error_that_says_so(begins: bool) -> None:
    head, body, *_ = asyncio.run(cut_short(begins))
    assert begins or head["status"] == 503
    assert json.loads(body["body"].removeprefix(b"data: "))["error"]["code"] == "draining"
