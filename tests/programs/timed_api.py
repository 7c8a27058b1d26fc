"""An api process that measures how long its event loop stops.

GET /stopped returns the longest stops since the last call, in seconds of CPU time, so that the load of the machine does
not count: of the whole process, whose other threads may have held the interpreter's lock, and of the loop's own thread.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from api.app import make_app
from api.generation.broker_client import BrokerClient
from api.http.connection import Connection
from shared.settings import Settings

TICK = 0.001  # seconds


class Timed:
    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._longest = [0.0, 0.0]
        self._seen = [0.0, 0.0]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self._tick()
        if scope["type"] != "http" or scope["path"] != "/stopped":
            await self._app(scope, receive, send)
            return
        body = json.dumps(self._longest).encode()
        self._longest = [0.0, 0.0]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _tick(self) -> None:
        now = [time.process_time(), time.thread_time()]
        passed = [end - begin for begin, end in zip(self._seen, now, strict=True)]
        self._longest = [max(pair) for pair in zip(self._longest, passed, strict=True)]
        self._seen = now
        asyncio.get_running_loop().call_later(TICK, self._tick)


def main() -> None:
    settings = Settings.model_validate_json(sys.argv[1])
    listener = socket.socket(fileno=int(sys.argv[2]))
    app = Timed(make_app(settings, BrokerClient(settings)))
    config = uvicorn.Config(app, loop="uvloop", http=Connection, ws="none", lifespan="on", log_config=None)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
