"""``python -m api [--fd N]``: one api process. ``--fd`` is a listening socket that supervisord holds."""

import argparse
import errno
import gc
import os
import signal
import socket
import sys

import uvicorn

from api.app import make_app
from api.generation.broker_client import BrokerClient
from api.http.connection import Connection
from api.http.connection_limits import ConnectionLimits
from api.http.tls import Certificate
from shared import exits, failpoints, logs
from shared.certificate import CertificateUnusable
from shared.files import NotPrivate, make_private, raise_file_limit
from shared.settings import Settings, load_settings, unusable_keys

FOR_CONNECTIONS = 0.8  # the share of the open files that connections may take
GRACE = 30  # seconds for running requests when the process is stopped


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api", description="The HTTP side of mlx-server.")
    parser.add_argument("--fd", type=int, help="file descriptor of an inherited listening socket")
    fd: int | None = parser.parse_args().fd
    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    settings = load_settings()
    if why := unusable_keys(settings):
        sys.stderr.write(f"api: {why}\n")
        raise SystemExit(exits.MISCONFIGURED)
    logs.configure("api", settings.log_level)
    certificate = certificate_of(settings)
    claim_run_dir(settings)
    limits = ConnectionLimits(int(raise_file_limit() * FOR_CONNECTIONS), settings.unfinished_per_address)
    listener = listen(settings) if fd is None else socket.socket(fileno=fd)
    serve(settings, listener, limits, certificate)


def certificate_of(settings: Settings) -> Certificate | None:
    """Exits 78 with one line when it cannot be served with."""
    if settings.tls_certificate is None:
        return None
    try:
        return Certificate(settings.tls_certificate, settings.tls_key or settings.tls_certificate)
    except CertificateUnusable as error:
        sys.stderr.write(f"api: {error}\n")
        raise SystemExit(exits.MISCONFIGURED) from None


def claim_run_dir(settings: Settings) -> None:
    """Prompts go into it, so it must be ours alone; as the broker does. Exits 78 with one line."""
    os.umask(0o077)
    try:
        make_private(settings.sockets_dir)
    except (NotPrivate, OSError) as error:
        sys.stderr.write(f"api: the run directory cannot be used: {error}\n")
        raise SystemExit(exits.MISCONFIGURED) from None


def listen(settings: Settings) -> socket.socket:
    """Exits 75 with one line when the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        why = "it is in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        sys.stderr.write(f"api: cannot listen on {settings.host}:{settings.port}: {why}\n")
        raise SystemExit(exits.TAKEN) from None
    return listener


def serve(
    settings: Settings, listener: socket.socket, limits: ConnectionLimits, certificate: Certificate | None
) -> None:
    config = uvicorn.Config(
        make_app(settings, BrokerClient(settings)),
        loop="api.http.tls:Loop",
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
        http=Connection.of(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE,
    )
    for stop in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # uvicorn raises them again when it is done: then we just leave
        signal.signal(stop, lambda *_: None)
    gc.freeze()  # a full collection over the imported modules stops all streams for 15 ms
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
