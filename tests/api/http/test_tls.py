"""Https: a renewed certificate is shown without a restart, and connections without a handshake do not stay."""

import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.http.connection import Connection
from api.http.tls import Certificate, Loop
from shared.certificate import CertificateUnusable
from tests.api.conftest import serve
from tests.api.fake_broker import DEADLINE
from tests.certificates import Pair, self_signed


def shown(certificate: Certificate, name: str | None = None) -> str:
    """The common name that a client sees."""
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trust.wrap_bio(to_client, to_server, server_hostname=name)
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    for side in [client, server] * 3:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    der = client.getpeercert(binary_form=True)
    assert der
    return next(name for name in ("first", "second") if name.encode() in der)


@pytest.mark.parametrize("name", [None, "localhost"])
def test_a_renewed_certificate_is_shown_to_the_next_connection(name: str | None, tmp_path: Path) -> None:
    first, second = self_signed(tmp_path, "first"), self_signed(tmp_path, "second")
    certificate = Certificate(first.certificate, first.key)
    assert shown(certificate, name) == "first"
    second.key.replace(first.key)
    second.certificate.replace(first.certificate)
    assert shown(certificate, name) == "second"


def test_a_renewed_certificate_that_cannot_be_used_is_logged_once_and_the_earlier_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = self_signed(tmp_path, "first"), self_signed(tmp_path, "second")
    certificate = Certificate(first.certificate, first.key)
    with caplog.at_level(logging.ERROR):
        second.certificate.replace(first.certificate)  # the key comes later
        assert [shown(certificate), shown(certificate)] == ["first", "first"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "MLX_SERVER_TLS_KEY" in caplog.text
    first.certificate.rename(tmp_path / "elsewhere")
    assert shown(certificate) == "first"
    (tmp_path / "elsewhere").rename(first.certificate)
    second.key.replace(first.key)
    assert shown(certificate) == "second"


def test_a_certificate_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(CertificateUnusable):
        Certificate(tmp_path / "none", tmp_path / "none")


class ImpatientLoop(Loop):
    handshake = 0.2


class Impatient(Connection):
    patience = 0.2


async def tells_the_scheme(scope: Any, receive: Any, send: Any) -> None:
    body = scope["scheme"].encode()
    head = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return self_signed(tmp_path_factory.mktemp("certificate"))


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03"])
def test_a_client_that_makes_no_handshake_is_cut_and_is_no_line_in_the_log(
    said: bytes, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """Silent, speaking plain HTTP, or stopping within the handshake."""
    certificate, loop = Certificate(pair.certificate, pair.key), f"{__name__}:ImpatientLoop"
    with (
        serve(tells_the_scheme, lifespan="off", loop=loop, certificate=certificate) as port,
        socket.create_connection(("127.0.0.1", port), DEADLINE) as client,
    ):
        client.sendall(said)
        assert b"HTTP" not in read_until_end(client)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_client_that_sends_nothing_behind_its_handshake_is_cut_as_without_https(pair: Pair) -> None:
    trust, certificate = (
        ssl.create_default_context(cafile=pair.certificate),
        Certificate(pair.certificate, pair.key),
    )
    with serve(tells_the_scheme, Impatient, "off", certificate=certificate) as port:
        plain = socket.create_connection(("127.0.0.1", port), DEADLINE)
        with trust.wrap_socket(plain, server_hostname="localhost") as client:
            assert read_until_end(client) == b""


def test_a_request_by_https_knows_its_scheme(pair: Pair) -> None:
    trust, certificate = (
        ssl.create_default_context(cafile=pair.certificate),
        Certificate(pair.certificate, pair.key),
    )
    loop = f"{Loop.__module__}:Loop"
    with serve(tells_the_scheme, lifespan="off", loop=loop, certificate=certificate) as port:
        assert httpx.get(f"https://127.0.0.1:{port}/", verify=trust).text == "https"


def read_until_end(client: socket.socket) -> bytes:
    said = b""
    try:
        while piece := client.recv(1 << 16):
            said += piece
    except ConnectionResetError:
        pass
    return said
