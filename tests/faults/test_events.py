"""GET /admin/events on the whole server: a snapshot, then changes; resumed where it was, and behind another broker."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.client import Event, EventReader
from tests.faults.stack import FaultStack, fault_stack


@pytest.fixture(scope="module")
def stack() -> Iterator[FaultStack]:
    with fault_stack() as stack:
        yield stack


class Follower:
    def __init__(self, answer: httpx.Response) -> None:
        self._chunks = answer.iter_bytes()
        self._reader = EventReader()
        self._events: list[Event] = []

    def next(self) -> Event:
        while not self._events:
            self._events += self._reader.feed(next(self._chunks))
        return self._events.pop(0)

    def until(self, kind: str, **fields: str) -> Event:
        while True:
            event = self.next()
            if event.name == kind and fields.items() <= event.json().items():
                return event


@contextmanager
def follow(stack: FaultStack, last: str = "") -> Iterator[Follower]:
    headers = {"last-event-id": last} if last else {}
    with stack.http.stream("GET", "/admin/events", headers=headers, timeout=20) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Follower(answer)


@pytest.mark.slow
def test_a_stream_begins_with_a_snapshot_and_goes_on_with_changes(stack: FaultStack) -> None:
    with follow(stack) as events:
        snapshot = events.next()
        assert snapshot.name == "snapshot"
        assert [model["id"] for model in snapshot.json()["models"]] == ["a", "b"]
        stack.http.post("/admin/models/a/load")
        events.until("worker", state="spawned", detail="a")
        hot = events.until("model", name="a", state="hot")
    stack.http.post("/admin/models/a/unload", json={"wait": True})
    with follow(stack, hot.id) as events:
        first = events.next()
        assert first.name != "snapshot"
        events.until("model", name="a", state="loadable")


@pytest.mark.slow
def test_behind_another_broker_the_stream_begins_with_a_snapshot_again(stack: FaultStack) -> None:
    with follow(stack) as events:
        assert events.next().name == "snapshot"
        stack.kill_broker()
        events.until("snapshot")


@pytest.mark.slow
def test_a_position_that_is_none_begins_with_a_snapshot(stack: FaultStack) -> None:
    for position in ("x", "e:-1", "e:999999999999999999999", ":"):
        with follow(stack, position) as events:
            assert events.next().name == "snapshot"
