"""API keys: who may ask, kept as SHA-256 digests in one file that only its owner can read.

Rule 1: a key is shown once, when it is made. No file, log, argument or answer holds it afterwards.
Rule 2: the command ``keys`` alone writes the file, under a lock and by a rename. The api processes read it whenever it
has changed.
Rule 3: a file that cannot be read lets nobody in who was not let in before; nor does a file whose last key was revoked,
until the server is started anew.
"""

import fcntl
import hmac
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.key_terms import KeyTerms, Priority

log = logging.getLogger(__name__)

PREFIX = "sk-mlx-"
LEAST = 16  # characters of a key that an operator makes up
NAME = r"^[A-Za-z0-9._-]{1,64}$"


class KeysUnusable(Exception):
    """The message is for the operator and holds no key."""


class ApiKey(BaseModel):
    """``models``: names or patterns of what it may ask for; empty: all. ``digest``: SHA-256 of the key, in hex.

    ``concurrency`` and ``tokens_per_minute``: see KeyTerms; 0 is no limit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    admin: bool = False
    models: tuple[str, ...] = ()
    created: datetime | None = None
    expires: datetime | None = None
    priority: Priority = "normal"
    concurrency: int = Field(default=0, ge=0)
    tokens_per_minute: int = Field(default=0, ge=0)

    @property
    def terms(self) -> KeyTerms:
        return KeyTerms(
            name=self.name,
            priority=self.priority,
            concurrency=self.concurrency,
            tokens_per_minute=self.tokens_per_minute,
        )

    def may_use(self, *names: str) -> bool:
        """Whether one of the names, which mean the same model, is allowed."""
        return not self.models or any(fnmatchcase(name, some) for some in self.models for name in names)

    def has_expired(self, now: datetime) -> bool:
        return self.expires is not None and self.expires <= now


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def from_environment(entry: str) -> ApiKey:
    """``KEY`` or ``NAME=KEY``; ``NAME:admin=KEY`` for one that may administrate. Raises ValueError without the key."""
    head, separator, key = entry.strip().partition("=")
    if not key.strip("="):  # the end of a key in base64
        head, separator, key = "", "", entry.strip()
    name, _, role = head.partition(":")
    if role not in ("", "admin"):
        raise ValueError(f"{name}: a key is said to be 'admin' or nothing")
    if len(key) < LEAST or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"a key has {LEAST} printable characters of ASCII or more, without blanks")
    hashed = digest(key)
    try:
        return ApiKey(name=name if separator else f"key-{hashed[:8]}", digest=hashed, admin=role == "admin")
    except ValidationError:
        raise ValueError("a key's name has 1 to 64 letters, digits, '.', '_' or '-'") from None


class KeyFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[ApiKey]:
        """Empty if there is no such file. Raises KeysUnusable."""
        try:
            with self.path.open("rb") as file:
                self._check_owner(os.fstat(file.fileno()))
                entries = json.loads(file.read() or b"[]")
            if not isinstance(entries, list):
                raise KeysUnusable(f"{self.path} holds no list of keys")
            return [ApiKey.model_validate(entry) for entry in entries]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise KeysUnusable(f"{self.path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            where = ".".join(map(str, error.errors()[0]["loc"]))
            raise KeysUnusable(f"{self.path} holds a key whose {where!r} is wrong") from None
        except (ValueError, RecursionError):
            raise KeysUnusable(f"{self.path} is no JSON") from None

    def add(
        self,
        name: str,
        *,
        admin: bool = False,
        models: Sequence[str] = (),
        expires: datetime | None = None,
        priority: Priority = "normal",
        concurrency: int = 0,
        tokens_per_minute: int = 0,
    ) -> str:
        """Returns the new key. Raises KeysUnusable, also for a name that is taken or no name."""
        key = PREFIX + secrets.token_urlsafe(32)
        with self._locked():
            keys = self.read()
            if any(each.name == name for each in keys):
                raise KeysUnusable(f"there is a key {name!r} already; revoke it first, or take another name")
            try:
                made = ApiKey(
                    name=name,
                    digest=digest(key),
                    admin=admin,
                    models=tuple(models),
                    created=datetime.now(UTC),
                    expires=expires,
                    priority=priority,
                    concurrency=concurrency,
                    tokens_per_minute=tokens_per_minute,
                )
            except ValidationError:
                raise KeysUnusable("a key's name has 1 to 64 letters, digits, '.', '_' or '-'") from None
            self._write([*keys, made])
        return key

    def revoke(self, name: str) -> None:
        """Raises KeysUnusable when there is no such key."""
        with self._locked():
            keys = self.read()
            left = [each for each in keys if each.name != name]
            if len(left) == len(keys):
                known = ", ".join(each.name for each in keys) or "none"
                raise KeysUnusable(f"there is no key {name!r}; keys: {known}")
            self._write(left)

    def _check_owner(self, found: os.stat_result) -> None:
        if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeysUnusable(f"others may read {self.path}: chmod 600 it")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise KeysUnusable(f"{self.path} cannot be written: {error.strerror}") from None

    def _write(self, keys: Sequence[ApiKey]) -> None:
        text = json.dumps([key.model_dump(mode="json", exclude_defaults=True) for key in keys], indent=1)
        new = self.path.with_suffix(f".{secrets.token_hex(4)}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)


class KeyRing:
    """The keys that hold now: those of the environment and those of the file, as it is at the moment."""

    def __init__(self, given: Sequence[ApiKey], path: Path) -> None:
        """Raises KeysUnusable: a server does not start with a file that it cannot read."""
        self._given = tuple(given)
        self._file = KeyFile(path)
        self._seen = self._state()
        self._keys: tuple[ApiKey, ...] = (*self._given, *self._file.read())
        self._had_any = bool(self._keys)

    @property
    def required(self) -> bool:
        """Whether requests must bring a key."""
        self._look()
        return self._had_any

    def find(self, key: str) -> ApiKey | None:
        """Compares with every key in constant time. None: unknown, revoked or expired."""
        self._look()
        hashed, now = digest(key), datetime.now(UTC)
        found = [each for each in self._keys if hmac.compare_digest(each.digest, hashed)]
        return next((each for each in found if not each.has_expired(now)), None)

    def _look(self) -> None:
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = (*self._given, *self._file.read())
            self._had_any |= bool(self._keys)
            log.info("%d keys hold now", len(self._keys))
        except KeysUnusable as error:
            log.error("the keys of before hold on: %s", error)

    def _state(self) -> tuple[int, ...] | None:
        try:
            found = self._file.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode
