"""A hub on this machine: one repository, over HTTP as huggingface.co has it, and the ways in which it can fail."""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40
REPOSITORY = "org/tiny"
_SLICE = 1 << 14
SECRET = "hf_secret_of_the_test"


class Hub:
    """``rate``: bytes a second of each answer; ``cut_after`` and ``stall_after``: bytes of weights in one answer, then
    the connection ends or says nothing more; ``lies``: bytes that its list says there are more than it sends."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.rate: float | None = None
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.lies = 0
        self.etag = ""  # of the weights, in place of the right one
        self.ranges = True
        self.private = False
        self.busy = 0  # answers of 503 still to be given for the weights
        self.out_of_range = 0  # answers of 416 still to be given for a range of the weights
        self.on_bytes: Callable[[int], None] = lambda sent: None
        self.asked: list[tuple[str, str, str | None]] = []  # method, path, range
        self.sent = 0  # bytes of weights
        self.open = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._answers())
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """For a process that is to use this hub, and no other."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    @property
    def weights(self) -> Path:
        return self.folder / "model.safetensors"

    def partial(self) -> int:
        """Bytes of the weights that the cache has of a download that was interrupted."""
        parts = self.home.glob("hub/models--org--tiny/blobs/*.incomplete")
        return max((part.stat().st_size for part in parts), default=0)

    def fetched(self, name: str = "model.safetensors") -> list[str | None]:
        """The ranges in which the file was asked for."""
        return [range for method, path, range in self.asked if method == "GET" and path.endswith(f"/{name}")]

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # ---------------------------------------------------------------- what it answers

    def _answers(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Answers(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.asked.append((self.command, self.path, self.headers.get("Range")))
                try:
                    hub._answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            do_HEAD = do_GET  # noqa: N815 (the name http.server looks for)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Answers

    def _answer(self, to: BaseHTTPRequestHandler) -> None:
        parts = to.path.split("?")[0].strip("/").split("/")
        if self.private and parts[0] != "" and to.headers.get("Authorization") != f"Bearer {SECRET}":
            parts = ["private"]
        match parts:
            case ["private"]:
                _send(to, 401, {"X-Error-Code": "RepoNotFound"}, b"{}")
            case [""]:
                _send(to, 200, {}, b"")
            case ["api", "models", "org", "tiny", "revision", "none"]:
                _send(to, 404, {"X-Error-Code": "RevisionNotFound"}, b"{}")
            case ["api", "models", "org", "tiny", *rest] if rest[:1] != ["tree"]:
                _send(to, 200, {}, json.dumps({"id": REPOSITORY, "sha": COMMIT}).encode())
            case ["api", "models", "org", "tiny", "tree", _]:
                files = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
                _send(to, 200, {}, json.dumps([self._entry(file) for file in files]).encode())
            case ["org", "tiny", "resolve", _, *name]:
                self._send_file(to, self.folder / "/".join(name))
            case ["api", "models", "org", "gated", *_]:
                _send(to, 403, {"X-Error-Code": "GatedRepo"}, b"{}")
            case ["api", "models", "org", "huge", "tree", _]:
                huge = {"type": "file", "path": "model.safetensors", "size": 10**16, "oid": "x"}
                _send(to, 200, {}, json.dumps([huge]).encode())
            case ["api", "models", "org", "huge", *_]:
                _send(to, 200, {}, json.dumps({"id": "org/huge", "sha": COMMIT}).encode())
            case ["api", "models", "org", "broken", *_]:
                _send(to, 500, {}, b"")
            case _:
                _send(to, 404, {"X-Error-Code": "RepoNotFound"}, b"{}")

    def _entry(self, file: Path) -> dict[str, object]:
        body = file.read_bytes()
        size = len(body) + (self.lies if file == self.weights else 0)
        entry: dict[str, object] = {
            "type": "file",
            "path": str(file.relative_to(self.folder)),
            "size": size,
            "oid": _git_id(body),
        }
        if file.suffix == ".safetensors":
            entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": size, "pointerSize": 130}
        return entry

    def _send_file(self, to: BaseHTTPRequestHandler, file: Path) -> None:
        body, is_weights = file.read_bytes(), file == self.weights
        etag = hashlib.sha256(body).hexdigest() if file.suffix == ".safetensors" else _git_id(body)
        etag = self.etag if is_weights and self.etag else etag
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        asked = re.fullmatch(r"bytes=(\d+)-", to.headers.get("Range") or "")
        if is_weights and to.command == "GET" and self.busy:
            self.busy -= 1
            _send(to, 503, {}, b"")
        elif asked and is_weights and self.out_of_range:
            self.out_of_range -= 1
            _send(to, 416, {}, b"")
        elif asked and self.ranges:
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            self._stream(to, 206, headers, body[start:], is_weights)
        else:
            self._stream(to, 200, headers, body, is_weights)

    def _stream(
        self, to: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, is_weights: bool
    ) -> None:
        if to.command == "HEAD" or not is_weights:
            _send(to, status, headers, body)
            return
        _head(to, status, headers, len(body))
        most = min(each for each in (self.cut_after, self.stall_after, len(body)) if each is not None)
        for start in range(0, most, _SLICE):
            piece = body[start : min(start + _SLICE, most)]
            self.sent += len(piece)  # before the client has it and a test looks
            to.wfile.write(piece)
            self.on_bytes(self.sent)
            if self.rate:
                time.sleep(len(piece) / self.rate)
        if most < len(body):
            if self.stall_after is not None:
                self.open.wait(60)
            to.close_connection = True


def _send(to: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    _head(to, status, headers, len(body))
    if to.command == "GET":
        to.wfile.write(body)


def _head(to: BaseHTTPRequestHandler, status: int, headers: dict[str, str], length: int) -> None:
    to.send_response(status)
    for name, value in {**headers, "Content-Length": str(length)}.items():
        to.send_header(name, value)
    to.end_headers()


def _git_id(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@contextmanager
def hub_of(folder: Path, home: Path) -> Iterator[Hub]:
    hub = Hub(folder, home)
    try:
        yield hub
    finally:
        hub.close()


def without_a_hub(environment: dict[str, str]) -> dict[str, str]:
    """The environment of this process without what names a hub or a token."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return ours | environment
