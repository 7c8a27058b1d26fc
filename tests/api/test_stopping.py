"""The answers to requests that a stopping server cannot finish."""

import asyncio
import json
from typing import Any

import pytest

from api.http.body import Message, Receive
from api.http.guard import Guard, Send
from shared.settings import Settings

GET = {"type": "http", "http_version": "1.0", "method": "GET", "path": "/", "headers": []}


async def cut_short(begins: bool) -> list[Message]:
    """The answer to a cancelled request; ``begins``: its stream had begun."""
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

    task = asyncio.create_task(Guard(app, Settings())(GET, messages.get, send))
    await waits.wait()
    task.cancel()
    await asyncio.wait({task})
    return sent


@pytest.mark.parametrize("begins", [False, True])
def test_a_request_that_a_stopping_server_cannot_finish_ends_with_an_error(begins: bool) -> None:
    head, body, *_ = asyncio.run(cut_short(begins))
    assert begins or head["status"] == 503
    assert json.loads(body["body"].removeprefix(b"data: "))["error"]["code"] == "draining"
