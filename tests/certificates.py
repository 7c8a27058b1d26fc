"""Certificates made by the openssl command, which is where https is."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

LOCAL = "DNS:localhost,IP:127.0.0.1"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Pair:
    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        """As variables of the environment."""
        return {
            "MLX_SERVER_TLS_CERTIFICATE": str(self.certificate),
            "MLX_SERVER_TLS_KEY": str(self.key),
        }


def self_signed(folder: Path, name: str = "server", names: str = LOCAL) -> Pair:
    """``names``: as openssl writes a subjectAltName."""
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    _openssl(
        *("req", "-x509", "-days", "60", *_NEW_KEY),
        *("-keyout", pair.key, "-out", pair.certificate),
        *("-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"),
    )
    return pair


def expired(folder: Path) -> Pair:
    valid = self_signed(folder, "expired")
    _openssl("x509", "-in", valid.certificate, "-signkey", valid.key, "-days", "-1", "-out", folder / "old")
    return Pair(folder / "old", valid.key)


def signed(folder: Path, by: Pair, names: str = LOCAL) -> Pair:
    """The file of its certificate holds the authority's too, as servers show them."""
    pair, request, extensions = (
        Pair(folder / "signed.pem", folder / "signed.key"),
        folder / "csr",
        folder / "x",
    )
    extensions.write_text(f"subjectAltName={names}\nbasicConstraints=CA:FALSE\n")
    _openssl(
        *("req", "-subj", "/CN=signed", *_NEW_KEY),
        *("-keyout", pair.key, "-out", request),
    )
    _openssl(
        *("x509", "-req", "-in", request, "-CA", by.certificate, "-CAkey", by.key, "-CAcreateserial"),
        *("-days", "60", "-extfile", extensions, "-out", pair.certificate),
    )
    pair.certificate.write_text(pair.certificate.read_text() + by.certificate.read_text())
    return pair


def encrypted(folder: Path, key: Path) -> Path:
    _openssl("ec", "-in", key, "-aes128", "-passout", "pass:secret", "-out", folder / "encrypted.key")
    return folder / "encrypted.key"


def _openssl(*words: object) -> None:
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
