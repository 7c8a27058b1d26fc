"""GET /admin/events with figures: the whole status every so many seconds."""

import pytest

from shared.protocol import ModelStatus
from tests.api.conftest import Stack
from tests.client import EventReader


def test_with_status_the_whole_report_comes_again_and_again_behind_the_snapshot(stack: Stack) -> None:
    stack.broker.models = [ModelStatus(id="tiny", state="hot")]
    reader, seen = EventReader(), []
    with stack.client.stream("GET", "/admin/events?status=0.1") as answer:
        for piece in answer.iter_bytes():
            seen += reader.feed(piece)
            if len(seen) >= 3:
                break
    assert [event.name for event in seen[:3]] == ["snapshot", "status", "status"]
    assert {event.json()["models"][0]["state"] for event in seen[:3]} == {"hot"}
    assert len({event.id for event in seen[:3]}) == 1


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", "1e9"])
def test_what_is_no_number_of_seconds_is_refused_by_its_name(stack: Stack, seconds: str) -> None:
    answer = stack.client.get(f"/admin/events?status={seconds}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "status")
