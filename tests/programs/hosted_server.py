"""Another OpenAI-compatible server, for tests of hosted models: every answer is a function of the request.

It imports nothing of ours.
``verbatim``: it answers with the last message, a list of [seconds of silence, text].
``--do`` makes it misbehave as servers of the field do, one way a life or each time.
"""

import argparse
import base64
import hashlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAYS = (
    "never-ready",
    "silent",
    "deaf",
    "forks",
    "leaks",
    "garbage",
    "cut",
    "html",
    "dies",
    "hangs",
    "no-json",
    "open",
    "verbatim",
    "floods",
)
PIECES = 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        if self.path == "/health" and "never-ready" not in self.server.does:
            self.answer(200, {"status": "ok"})
        elif self.path == "/v1/models":
            ready = "never-ready" not in self.server.does
            self.answer(200 if ready else 503, {"data": [{"id": self.server.model}]})
        else:
            self.answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        endpoint = self.path.removeprefix("/v1/")
        if endpoint not in self.server.endpoints:
            self.answer(404, {"error": {"message": "no such path"}})
            return
        if endpoint == "audio/transcriptions":
            self.answer(200, {"text": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
            return
        try:
            body = json.loads(data)
        except ValueError:
            self.answer(400, {"error": {"message": "no JSON"}})
            return
        self.server.misbehave(self, str(body))
        if "verbatim" in self.server.does:
            self.close_connection = True
            for silence, said in json.loads(body["messages"][-1]["content"]):
                time.sleep(silence)
                self.wfile.write(said.encode("latin-1"))
            return
        if endpoint == "audio/speech":
            self.send(200, "audio/wav", b"RIFF" + str(body["input"]).encode() * 100)
        elif endpoint == "images/generations":
            self.answer(200, {"created": 1, "data": [{"b64_json": base64.b64encode(b"png").decode()}]})
        elif endpoint == "embeddings":
            self.answer(200, {"object": "list", "model": body["model"], "data": [{"embedding": [1.0]}]})
        elif body.get("stream"):
            self.stream(body)
        else:
            self.answer(200, whole(body))

    def stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number, chunk in enumerate(chunks(body)):
            if "cut" in self.server.does and number == PIECES // 2:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            time.sleep(self.server.step)
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def answer(self, status: int, body: Any) -> None:
        self.send(status, "application/json", json.dumps(body).encode())

    def send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        if "silent" not in self.server.does:
            super().log_message(format, *args)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, does: set[str], endpoints: set[str], model: str, step: float) -> None:
        super().__init__(("0.0.0.0" if "open" in does else "127.0.0.1", port), Handler)
        self.does, self.endpoints, self.model, self.step = does, endpoints, model, step
        self.taken: list[mmap.mmap] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error."""

    def misbehave(self, handler: Handler, said: str) -> None:
        if "dies" in self.does or "please die" in said:
            os.kill(os.getpid(), signal.SIGKILL)
        if "please crash" in said:
            os.abort()
        if "hangs" in self.does:
            time.sleep(3600)
        if "garbage" in self.does:
            handler.wfile.write(b"\x00\x01 what is this\r\n\r\n")
            handler.connection.shutdown(socket.SHUT_RDWR)
        if "html" in self.does:
            handler.send(500, "text/html", b"<html><b>Internal Server Error</b></html>")
        if "no-json" in self.does:
            handler.send(200, "application/json", b'{"choices": [')
        if "leaks" in self.does:
            taken = mmap.mmap(-1, 100 << 20)
            taken.write(b"x" * (100 << 20))
            self.taken.append(taken)


def words_of(body: dict[str, Any]) -> list[str]:
    """Images are answered with the digest of their bytes."""
    last = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    if isinstance(last, list):
        urls = [part["image_url"]["url"] for part in last if part["type"] == "image_url"]
        seen = [hashlib.sha256(base64.b64decode(url.partition(",")[2])).hexdigest() for url in urls]
        return [f"image {digest}" for digest in seen]
    return [f"{hashlib.sha256(f'{last}{number}'.encode()).hexdigest()[:6]} " for number in range(PIECES)]


def call_of(body: dict[str, Any]) -> dict[str, Any] | None:
    tools = body.get("tools")
    if not tools or body["messages"][-1]["role"] == "tool":
        return None
    return {"name": tools[0]["function"]["name"], "arguments": '{"city": "Paris"}'}


def usage() -> dict[str, Any]:
    return {"prompt_tokens": 7, "completion_tokens": PIECES, "total_tokens": 7 + PIECES}


def whole(body: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(words_of(body))}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {
        "id": "x",
        "object": "chat.completion",
        "model": body["model"],
        "choices": [choice],
        "usage": usage(),
    }


def chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    base = {"id": "x", "object": "chat.completion.chunk", "model": body["model"]}
    if call := call_of(body):
        parts: list[dict[str, Any]] = [
            {
                "tool_calls": [
                    {"index": 0, "id": "c1", "type": "function", "function": {**call, "arguments": ""}}
                ]
            },
            *({"tool_calls": [{"index": 0, "function": {"arguments": one}}]} for one in call["arguments"]),
        ]
        reason = "tool_calls"
    else:
        parts, reason = [{"content": word} for word in words_of(body)], "stop"
    said = [{**base, "choices": [{"index": 0, "delta": part, "finish_reason": None}]} for part in parts]
    end = {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    return [*said, end, {**base, "choices": [], "usage": usage()}]


def flood() -> None:
    while True:
        print("y" * 10_000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--do", action="append", default=[], choices=WAYS)
    parser.add_argument("--endpoints", default="chat/completions,completions,embeddings")
    parser.add_argument("--model", default="its-own-name")
    parser.add_argument("--step", type=float, default=0.0)
    parser.add_argument("--late", type=float, default=0.0, help="seconds until it listens")
    parser.add_argument("--of", help="whose it is; only to tell it from others in the list of processes")
    options = parser.parse_args()
    does = set(options.do)
    if "deaf" in does:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "forks" in does:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
    if "silent" not in does:
        print("loading", flush=True)
    if "floods" in does:
        threading.Thread(target=flood, daemon=True).start()
    time.sleep(options.late)
    server = Server(options.port, does, set(options.endpoints.split(",")), options.model, options.step)
    threading.Thread(target=server.serve_forever).start()


if __name__ == "__main__":
    main()
