"""Answers /ready on the socket that supervisord gives, as the broker allows.

If STAND_IN says ``unready`` the answer is always no; if it says ``falling`` it ends at once.
"""

import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

BROKER = Path(os.environ["MLX_SERVER_RUN_DIR"]) / "broker.pid"


class Api(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = BROKER.exists() and "unready" not in os.environ["STAND_IN"]
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b"as I was told")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


if __name__ == "__main__":
    print("api: these are the last words", file=sys.stderr)
    if "falling" in os.environ["STAND_IN"]:
        sys.exit(3)
    server = HTTPServer(("", 0), Api, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=0)
    server.serve_forever()
