"""What a hosted server is found to have, over real connections to a server that says what it likes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from workers.host.probe import endpoints, model_names, ready, spoken, status_of

Answers = Callable[[str, str], tuple[int, bytes]]
"""(method, path) -> (status, body)"""


@contextmanager
def server(answers: Answers) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers(self.command, self.path)
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield listening.server_address[1]
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def test_it_is_ready_when_either_path_says_so_or_the_one_that_was_named() -> None:
    with server(lambda method, path: (200 if path == "/v1/models" else 404, b"")) as port:
        assert ready(port, None, 200)
        assert not ready(port, "/health", 200)
        assert ready(port, "/health", 404)
    assert status_of(port, "/health") is None
    assert not ready(port, None, 200)


@pytest.mark.parametrize("absent", [404, 405, 501])
def test_an_endpoint_is_there_unless_its_server_says_that_it_is_not(absent: int) -> None:
    has = {"/v1/chat/completions": 400, "/v1/embeddings": 422, "/v1/audio/speech": 500}
    with server(lambda method, path: (has.get(path, absent), b"{}")) as port:
        assert endpoints(port) == ["chat", "embeddings", "audio/speech"]
        assert spoken(port, ["rerank"]) == ["rerank"]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"data": [{"id": "a"}, {"id": "b"}]}', ["a", "b"]),
        (b'{"data": [{"id": 1}]}', []),
        (b'{"data": null}', []),
        (b'{"data": [null]}', []),
        (b"[]", []),
        (b"<html>", []),
        (b"\xff", []),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", []),
    ],
)
def test_names_of_its_models_are_read_where_there_is_a_list_of_them(body: bytes, names: list[str]) -> None:
    with server(lambda method, path: (200, body)) as port:
        assert model_names(port) == names
