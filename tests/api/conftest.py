"""An api on a free port, and the fake broker that it is connected to."""

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
import uvicorn

from api.app import make_app
from api.generation.broker_client import BrokerClient
from api.http.connection import Connection
from api.http.tls import Certificate
from api.metrics.counters import Counters
from shared.settings import Settings
from tests.api.fake_broker import DEADLINE, FakeBroker

MODELS = ("tiny", "org/name")

QUICK = {
    "heartbeat_interval": 0.05,
    "heartbeat_timeout": 0.3,
    "broker_timeout": 0.4,
    "resume_timeout": 0.8,
    "first_token_silence": 0.3,
    "keepalive": 0.1,
    "send_timeout": 1.0,
    "max_body_bytes": 1 << 20,
}


@dataclass
class Stack:
    broker: FakeBroker
    client: httpx.Client
    port: int
    settings: Settings
    counters: Counters

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def chat(self, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=chat_body(**fields))

    def complete(self, **fields: Any) -> httpx.Response:
        body = {"model": "tiny", "prompt": "Hi", **fields}
        return self.client.post("/v1/completions", json=body)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE)


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **fields}


@contextlib.contextmanager
def run_stack(**overrides: Any) -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="mlx", dir="/tmp"))
    settings = Settings(
        available_models=tuple(f"{model}=/models/{model}" for model in MODELS),
        run_dir=folder,
        **{**QUICK, **overrides},
    )
    broker = FakeBroker(settings.api_socket)
    try:
        to_broker = BrokerClient(settings)
        app = make_app(settings, to_broker)
        with serve(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            yield Stack(broker, client, port, settings, to_broker.counters)
    finally:
        broker.close()
        shutil.rmtree(folder)


@contextlib.contextmanager
def serve(
    app: Any,
    http: type[Connection] = Connection,
    lifespan: Literal["on", "off"] = "on",
    loop: str = "uvloop",
    certificate: Certificate | None = None,
) -> Iterator[int]:
    """Yields its port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        loop=loop,
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
        http=http,
        ws="none",
        lifespan=lifespan,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + DEADLINE
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(DEADLINE)


@pytest.fixture(scope="session")
def shared_stack() -> Iterator[Stack]:
    with run_stack() as stack:
        yield stack


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """An api whose broker answers everything at once."""
    shared_stack.broker.reset()
    return shared_stack
