"""An api that gives one answer to everything."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def answering(
    status: int,
    said: object,
    key: str = "",
    while_waiting: Callable[[], object] = lambda: None,
    waited: tuple[int, object] | None = None,
    while_posting: Callable[[], object] = lambda: None,
) -> Iterator[tuple[str, list[tuple[str, object]]]]:
    """Yields the port and what is asked of it: paths, and bodies where there are any.

    ``said``: text, or what becomes JSON. ``waited``: status and answer of an order with ``wait``, if another.
    ``key``: whoever does not show it gets 401.
    ``while_waiting``: is called before an order with ``wait`` is answered, ``while_posting`` before any order is.
    """
    asked: list[tuple[str, object]] = []

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            asked.append((self.path, order := json.loads(body)))
            while_posting()
            if order.get("wait"):
                while_waiting()
            self._answer(*(waited if waited and order.get("wait") else (status, said)))

        def do_GET(self) -> None:
            asked.append((self.path, None))
            self._answer(status, said)

        do_DELETE = do_GET  # noqa: N815 (the name http.server looks for)

        def _answer(self, status: int, said: object) -> None:
            text = said if isinstance(said, str) else json.dumps(said)
            stranger = key and self.headers["authorization"] != f"Bearer {key}"
            self.send_response(401 if stranger else status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield str(server.server_port), asked
        finally:
            server.shutdown()
            thread.join()
