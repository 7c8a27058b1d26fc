"""Responses that were asked to be kept: one SQLite file that all api processes share and that outlives them.

Rule 1: it holds at most ``limit`` bytes; the oldest go first.
Rule 2: each operation opens the file anew, so that any thread may do it; callers keep it off the event loop.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 5.0  # seconds, for another process that is writing

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, previous TEXT, size INTEGER NOT NULL,
    input TEXT NOT NULL, response TEXT NOT NULL
)
"""
_TOO_MUCH = """
DELETE FROM responses WHERE number <= (
    SELECT max(number) FROM (SELECT number, sum(size) OVER (ORDER BY number DESC) AS held FROM responses)
    WHERE held > ?
)
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


class Store:
    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit

    @property
    def keeps(self) -> bool:
        return self._limit > 0

    def put(self, stored: Stored) -> None:
        input, response = json.dumps(stored.input), json.dumps(stored.response)
        row = (stored.id, stored.previous, len(input) + len(response), input, response)
        with self._open() as connection:
            connection.execute(
                "INSERT INTO responses (id, previous, size, input, response) VALUES (?, ?, ?, ?, ?)", row
            )
            (held,) = connection.execute("SELECT total(size) FROM responses").fetchone()
            if held > self._limit:
                connection.execute(_TOO_MUCH, (self._limit,))

    def get(self, id: str) -> Stored | None:
        with self._open() as connection:
            row = connection.execute(
                "SELECT id, previous, input, response FROM responses WHERE id = ?", (id,)
            ).fetchone()
        return None if row is None else Stored(row[0], row[1], json.loads(row[2]), json.loads(row[3]))

    def delete(self, id: str) -> bool:
        with self._open() as connection:
            return connection.execute("DELETE FROM responses WHERE id = ?", (id,)).rowcount > 0

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction, ended and closed."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=PATIENCE)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_SCHEMA)
            with connection:
                yield connection
