"""The API key that a command shows as a client does: one from a file, or the owner's where a key is asked for."""

import shlex
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from cli import probe
from cli.refusal import Refused
from shared.settings import Settings

NO_KEY = "unused"  # clients want some key; a server without keys takes any


@dataclass(frozen=True)
class Key:
    """``shell``: how a shell command names it without showing it."""

    value: str
    shell: str


def client_key(settings: Settings, file: Path | None) -> Key:
    """Raises Refused."""
    if file is not None:
        return _in_file(file)
    answer = probe.get(settings, "/v1/models")
    token = probe.owner_token(settings)
    if token and answer and answer.status == HTTPStatus.UNAUTHORIZED:
        return Key(token, _reads(settings.token_file))
    return Key(NO_KEY, NO_KEY)


def _in_file(file: Path) -> Key:
    try:
        key = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"--key-file: {file} cannot be read: {getattr(error, 'strerror', error)}.") from None
    if not key or not key.isascii() or not key.isprintable():
        raise Refused(f"--key-file: {file} holds no API key; it is one line.")
    return Key(key, _reads(file))


def _reads(file: Path) -> str:
    return f'"$(cat {shlex.quote(str(file.absolute()))})"'
