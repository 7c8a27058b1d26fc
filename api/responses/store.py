"""Stores responses in one SQLite file, which all api processes share and which outlives them.

Rule 1: it holds at most ``limit`` bytes; the oldest are deleted first. The cost of a write does not grow with it.
Rule 2: each operation opens the file anew, so that any thread may call it; callers do so off the event loop.
Rule 3: only the owner of a response finds it. Owners are the digests of ``api.http.caller``.
Rule 4: a file of another version is replaced: it holds copies only, and their owners are unknown.

Every operation may raise sqlite3.Error, OSError or ValueError: a full disk, a lock, a damaged file.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 5.0  # seconds to wait for another process that is writing
VERSION = 2  # of the tables' schema

_TABLES = (
    "DROP TABLE IF EXISTS responses",
    "DROP TABLE IF EXISTS held",
    """CREATE TABLE responses (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, previous TEXT,
        size INTEGER NOT NULL, input TEXT NOT NULL, response TEXT NOT NULL
    )""",
    "CREATE TABLE held (bytes INTEGER NOT NULL)",
    "INSERT INTO held VALUES (0)",
    "CREATE TRIGGER put AFTER INSERT ON responses BEGIN UPDATE held SET bytes = bytes + new.size; END",
    "CREATE TRIGGER gone AFTER DELETE ON responses BEGIN UPDATE held SET bytes = bytes - old.size; END",
    f"PRAGMA user_version = {VERSION}",
)
_ONE = "SELECT id, previous, input, response FROM responses WHERE id = ? AND owner = ?"
_CHAIN = """
WITH RECURSIVE chain (depth, previous, size, input, response) AS (
    SELECT 0, previous, size, input, response FROM responses WHERE id = :id AND owner = :owner
    UNION ALL
    SELECT depth + 1, r.previous, r.size, r.input, r.response
    FROM chain JOIN responses AS r ON r.id = chain.previous AND r.owner = :owner
)
SELECT previous, size, input, json_extract(response, '$.output') FROM chain ORDER BY depth
"""


@dataclass(frozen=True)
class Stored:
    """``input`` and the response's output are items as they were sent."""

    id: str
    previous: str | None
    input: list[dict[str, Any]]
    response: dict[str, Any]

    @property
    def items(self) -> list[dict[str, Any]]:
        output: list[dict[str, Any]] = self.response["output"]
        return [*self.input, *output]


@dataclass(frozen=True)
class Turn:
    """The items of one response. ``size``: its bytes in the store."""

    previous: str | None
    size: int
    items: list[dict[str, Any]]


class Store:
    def __init__(self, path: Path, limit: int, patience: float = PATIENCE) -> None:
        self._path = path
        self._limit = limit
        self._patience = patience

    @property
    def keeps(self) -> bool:
        return self._limit > 0

    def put(self, stored: Stored, owner: str) -> None:
        input, response = json.dumps(stored.input), json.dumps(stored.response)
        row = (stored.id, owner, stored.previous, len(input) + len(response), input, response)
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO responses (id, owner, previous, size, input, response) VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
            while connection.execute("SELECT bytes FROM held").fetchone()[0] > self._limit:
                connection.execute("DELETE FROM responses WHERE number = (SELECT min(number) FROM responses)")

    def get(self, id: str, owner: str) -> Stored | None:
        with self._reading() as connection:
            found = connection.execute(_ONE, (id, owner)).fetchone() if connection else None
        if found is None:
            return None
        id, previous, input, response = found
        return Stored(id, previous, json.loads(input), json.loads(response))

    def chain(self, id: str, owner: str) -> Iterator[Turn]:
        """A response and the stored ones before it, the latest first."""
        with self._reading() as connection:
            rows = connection.execute(_CHAIN, {"id": id, "owner": owner}) if connection else ()
            for previous, size, input, output in rows:
                yield Turn(previous, size, [*json.loads(input), *json.loads(output)])

    def delete(self, id: str, owner: str) -> bool:
        with self._writing() as connection:
            gone = connection.execute("DELETE FROM responses WHERE id = ? AND owner = ?", (id, owner))
            return gone.rowcount > 0

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """None when nothing was ever stored."""
        if not self._path.exists():
            yield None
            return
        with closing(self._connect()) as connection:
            yield connection if _version(connection) == VERSION else None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.touch(mode=0o600)
        with closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            if _version(connection) != VERSION:
                _set_up(connection)
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=self._patience, isolation_level=None)


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _set_up(connection: sqlite3.Connection) -> None:
    """A second process that arrives at the same time finds it done."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if _version(connection) != VERSION:
            for statement in _TABLES:
                connection.execute(statement)
