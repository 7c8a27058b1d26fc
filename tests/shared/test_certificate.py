"""Certificate files that cannot be served with are refused by the setting's name, and commands trust one alone."""

import ssl
from pathlib import Path

import pytest

from shared.certificate import (
    CertificateUnusable,
    client_context,
    file_to_trust,
    known_as,
    prove,
    unusable_certificate,
)
from shared.settings import Settings
from tests.certificates import Pair, encrypted, expired, self_signed, signed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return self_signed(folder)


def settings(pair: Pair, **more: str | Path) -> Settings:
    return Settings(tls_certificate=pair.certificate, tls_key=pair.key, **more)  # type: ignore[arg-type]


def refusal(certificate: Path, key: Path) -> str:
    with pytest.raises(CertificateUnusable) as refused:
        prove(certificate, key)
    return str(refused.value)


def test_a_pair_tells_its_names_its_end_and_that_it_signed_itself(pair: Pair) -> None:
    found = prove(pair.certificate, pair.key)
    assert (found.names, found.is_self_signed) == (("localhost", "127.0.0.1"), True)
    assert unusable_certificate(settings(pair)) is None


def test_certificate_and_key_may_stand_in_one_file(pair: Pair, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text(pair.key.read_text() + pair.certificate.read_text())
    assert unusable_certificate(Settings(tls_certificate=both)) is None


def test_a_key_without_a_certificate_is_refused_by_the_settings(pair: Pair) -> None:
    with pytest.raises(ValueError, match="tls_key stands alone"):
        Settings(tls_key=pair.key)


def test_a_file_that_is_missing_or_may_not_be_read_is_named_with_its_setting(
    pair: Pair, tmp_path: Path
) -> None:
    said = refusal(tmp_path / "no.pem", pair.key)
    assert said.startswith(f"MLX_SERVER_TLS_CERTIFICATE: {tmp_path / 'no.pem'} cannot be read: No such file")
    assert refusal(pair.certificate, tmp_path).startswith(
        f"MLX_SERVER_TLS_KEY: {tmp_path} cannot be read: Is a"
    )


@pytest.mark.parametrize("text", ["", "none", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"])
def test_a_file_without_a_certificate_or_without_a_key_is_refused(
    text: str, pair: Pair, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text(text)
    assert "MLX_SERVER_TLS_CERTIFICATE" in refusal(other, pair.key)
    assert "holds no certificate" in refusal(other, pair.key)
    assert f"MLX_SERVER_TLS_KEY: {other} holds no private key" in refusal(pair.certificate, other)


def test_a_key_of_another_certificate_is_refused(pair: Pair, folder: Path) -> None:
    other = self_signed(folder, "other")
    assert "MLX_SERVER_TLS_KEY" in refusal(pair.certificate, other.key)
    assert "is not the key of" in refusal(pair.certificate, other.key)


def test_an_encrypted_key_is_refused_and_no_terminal_is_asked_for_its_password(
    pair: Pair, folder: Path
) -> None:
    said = refusal(pair.certificate, encrypted(folder, pair.key))
    assert "MLX_SERVER_TLS_KEY" in said
    assert "openssl pkey" in said


def test_an_expired_certificate_is_refused(folder: Path) -> None:
    old = expired(folder)
    said = refusal(old.certificate, old.key)
    assert said.startswith(f"MLX_SERVER_TLS_CERTIFICATE: {old.certificate} is refused by clients: ")
    assert "certificate has expired" in said


def test_a_command_trusts_the_first_certificate_of_the_servers_file_and_nothing_that_its_signer_signed(
    folder: Path, pair: Pair
) -> None:
    """The signer's certificate stands in the file, too."""
    authority = self_signed(folder, "authority")
    ours = signed(folder, authority)
    trust = client_context(settings(ours))
    assert trust is not None
    assert shake_hands(trust, ours) is None
    (folder / "theirs").mkdir()
    assert "verify failed" in str(shake_hands(trust, signed(folder / "theirs", authority)))
    assert "verify failed" in str(shake_hands(trust, pair))


def shake_hands(trust: ssl.SSLContext, server: Pair) -> ssl.SSLError | None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.certificate, server.key)
    sides = [trust.wrap_bio(to_client, to_server), context.wrap_bio(to_server, to_client, server_side=True)]
    for side in sides * 4:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            return error
    return None


def test_a_client_is_told_to_trust_a_certificate_that_signed_itself_or_the_named_authorities(
    folder: Path, pair: Pair
) -> None:
    authority = self_signed(folder, "root")
    assert file_to_trust(settings(pair)) == pair.certificate
    assert file_to_trust(settings(signed(folder, authority))) is None
    assert file_to_trust(settings(pair, tls_ca=authority.certificate)) == authority.certificate
    assert file_to_trust(Settings()) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("DNS:localhost,IP:127.0.0.1", "127.0.0.1"),
        ("DNS:llm.example.com,DNS:localhost", "localhost"),
        ("DNS:*.example.com,DNS:llm.example.com", "llm.example.com"),
        ("DNS:*.example.com", "127.0.0.1"),
    ],
)
def test_a_server_is_called_by_a_name_that_its_certificate_has(
    names: str, expected: str, tmp_path: Path
) -> None:
    assert known_as(settings(self_signed(tmp_path, names=names)), "127.0.0.1") == expected


def test_authorities_that_cannot_be_read_are_named_with_their_setting(tmp_path: Path) -> None:
    (tmp_path / "none").write_text("none")
    for file in (tmp_path / "missing", tmp_path / "none"):
        with pytest.raises(CertificateUnusable, match="MLX_SERVER_TLS_CA"):
            client_context(Settings(tls_ca=file))
