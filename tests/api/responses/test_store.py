"""The store of responses on a real disk."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from api.responses.store import Store, Stored


def stored(id: str, size: int = 10) -> Stored:
    return Stored(id, None, [{"type": "message"}], {"id": id, "output": [], "pad": "x" * size})


def test_a_stored_response_outlives_the_process_that_stored_it(tmp_path: Path) -> None:
    Store(tmp_path / "x" / "s.sqlite", 1 << 20).put(stored("a"), "me")
    assert Store(tmp_path / "x" / "s.sqlite", 1 << 20).get("a", "me") == stored("a")


def test_a_full_response_store_deletes_the_oldest(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 1000)
    for id in "abcd":
        store.put(stored(id, 300), "me")
    assert [store.get(id, "me") is not None for id in "abcd"] == [False, False, True, True]
    store.put(stored("e", 2000), "me")
    assert store.get("e", "me") is None


def test_the_response_store_counts_its_bytes_through_writes_and_deletes(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 2000)
    for id in "abcdefgh":
        store.put(stored(id, 300), "me")
        assert store.delete("b", "me") == (id == "b")
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as connection:
        [(held,)] = connection.execute("SELECT bytes FROM held")
        [(summed,)] = connection.execute("SELECT sum(size) FROM responses")
    assert held == summed <= 2000


def test_only_its_owner_finds_a_stored_response(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 1 << 20)
    store.put(stored("a"), "me")
    assert store.get("a", "you") is None
    assert list(store.chain("a", "you")) == []
    assert not store.delete("a", "you")
    assert store.get("a", "me") == stored("a")
    store.put(Stored("b", "a", [], {"output": []}), "you")
    assert [len(list(store.chain("b", who))) for who in ("you", "me")] == [1, 0]


def test_a_response_store_of_another_version_is_replaced(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as connection:
        connection.execute("CREATE TABLE responses (number INTEGER PRIMARY KEY, id TEXT)")
    store = Store(tmp_path / "s.sqlite", 1 << 20)
    assert store.get("a", "me") is None
    store.put(stored("a"), "me")
    assert store.get("a", "me") == stored("a")


def test_a_stored_conversation_of_two_thousand_turns_is_read_within_a_second(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 1 << 30)
    store.put(stored("resp_0"), "me")
    rows = [(f"resp_{i}", "me", f"resp_{i - 1}", 100, "[]", '{"output": []}') for i in range(1, 2000)]
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as connection, connection:
        connection.executemany(
            "INSERT INTO responses (id, owner, previous, size, input, response) VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
    began = time.process_time()
    assert sum(1 for _ in store.chain("resp_1999", "me")) == 2000
    assert time.process_time() - began < 2


def test_a_locked_response_store_fails_a_write_and_recovers(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite", 1 << 20, patience=0.05)
    store.put(stored("a"), "me")
    with closing(sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError):
            store.put(stored("b"), "me")
    store.put(stored("b"), "me")
