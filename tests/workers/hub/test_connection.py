"""One file over as many connections as it takes: broken, silent, busy, without ranges, of a wrong size, damaged."""

import hashlib
from pathlib import Path

import pytest

from tests.hub import COMMIT, Hub
from workers.hub.connection import TRIES, FileDownload, Remote
from workers.model.load_error import LoadError

PATIENCE, SILENCE = 10.0, 0.2  # seconds: of a test that waits for no silence, and of one that does


def remote(hub: Hub) -> Remote:
    body = hub.weights.read_bytes()
    url = f"{hub.environment['HF_ENDPOINT']}/org/tiny/resolve/{COMMIT}/{hub.weights.name}"
    return Remote("org/tiny", hub.weights.name, url, hashlib.sha256(body).hexdigest(), len(body) + hub.lies)


class Fetched:
    """``counted``: bytes that are here, as they were reported."""

    def __init__(self, hub: Hub, blobs: Path, silence: float = PATIENCE) -> None:
        blobs.mkdir(exist_ok=True)
        self.blobs, self.remote, self.counted = blobs, remote(hub), 0
        self.file = FileDownload(self.remote, blobs, {}, silence, self._count)
        self.counted = self.file.here()

    def _count(self, change: int) -> None:
        self.counted += change

    @property
    def content(self) -> bytes:
        return (self.blobs / self.remote.etag).read_bytes()

    @property
    def partial(self) -> Path:
        return self.blobs / f"{self.remote.etag}.incomplete"

    def refusal(self) -> str:
        with pytest.raises(LoadError) as caught:
            self.file.run()
        assert not caught.value.permanent
        assert not (self.blobs / self.remote.etag).exists(), "only a whole file gets its place"
        return caught.value.reason


@pytest.fixture
def fetched(hub: Hub, tmp_path: Path) -> Fetched:
    return Fetched(hub, tmp_path / "blobs")


def check(hub: Hub, fetched: Fetched) -> None:
    body = hub.weights.read_bytes()
    assert fetched.content == body
    assert fetched.counted == len(body)
    assert not fetched.partial.exists()


def test_a_connection_that_breaks_is_followed_by_one_that_goes_on(hub: Hub, fetched: Fetched) -> None:
    hub.cut_after = hub.weights.stat().st_size // 3
    fetched.file.run()
    check(hub, fetched)
    assert hub.sent == hub.weights.stat().st_size, "no byte came twice"
    assert len(hub.fetched()) >= 3


def test_a_connection_that_falls_silent_is_followed_by_one_that_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.stall_after = third = hub.weights.stat().st_size // 3
    fetched = Fetched(hub, tmp_path / "blobs", SILENCE)
    fetched.file.run()
    check(hub, fetched)
    assert f"bytes={third}-" in hub.fetched()


def test_a_hub_that_cannot_resume_is_read_from_the_beginning(hub: Hub, fetched: Fetched) -> None:
    hub.ranges, hub.cut_after = False, hub.weights.stat().st_size // 2
    hub.on_bytes = lambda sent: setattr(hub, "cut_after", None)
    fetched.file.run()
    check(hub, fetched)


def test_a_hub_that_is_busy_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.busy = 2
    fetched = Fetched(hub, tmp_path / "blobs", SILENCE)
    fetched.file.run()
    check(hub, fetched)


def test_a_hub_that_denies_the_bytes_that_are_left_is_read_from_the_beginning(
    hub: Hub, tmp_path: Path
) -> None:
    hub.out_of_range, hub.cut_after = 1, hub.weights.stat().st_size // 2
    fetched = Fetched(hub, tmp_path / "blobs", SILENCE)
    hub.on_bytes = lambda sent: setattr(hub, "cut_after", None)
    fetched.file.run()
    check(hub, fetched)


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [True, False])
def test_a_hub_that_brings_nothing_more_five_times_is_given_up_and_what_came_is_kept(
    hub: Hub, tmp_path: Path, ranges: bool
) -> None:
    fetched = Fetched(hub, tmp_path / "blobs", SILENCE)
    size = hub.weights.stat().st_size
    hub.ranges, hub.cut_after, hub.stall_after = ranges, None, size // 2
    if ranges:
        hub.on_bytes = lambda sent: setattr(hub, "stall_after", 0)
    assert f"{TRIES} connections brought nothing more of it (no byte for 0.2 s)" in fetched.refusal()
    assert len(hub.fetched()) >= 1 + TRIES
    assert fetched.partial.stat().st_size == size // 2
    hub.stall_after, hub.ranges = None, True
    hub.on_bytes = lambda sent: None
    again = Fetched(hub, fetched.blobs)
    again.file.run()
    check(hub, again)


@pytest.mark.parametrize("lies", [7, -7])
def test_a_file_of_another_size_than_the_hub_says_is_refused(hub: Hub, tmp_path: Path, lies: int) -> None:
    hub.lies = lies
    size = hub.weights.stat().st_size
    reason = Fetched(hub, tmp_path / "blobs").refusal()
    assert f"has {size + lies:,} bytes and sends {size:,}" in reason


def test_what_arrived_damaged_is_found_and_fetched_anew_when_asked_again(hub: Hub, fetched: Fetched) -> None:
    fetched.partial.write_bytes(b"damaged")
    assert "is not what the hub has, and was removed" in fetched.refusal()
    again = Fetched(hub, fetched.blobs)
    again.file.run()
    check(hub, again)


def test_a_partial_file_longer_than_the_whole_counts_for_nothing(hub: Hub, fetched: Fetched) -> None:
    fetched.partial.write_bytes(bytes(hub.weights.stat().st_size + 1))
    fetched.file.run()
    check(hub, fetched)


def test_a_file_that_is_here_is_not_asked_for(hub: Hub, fetched: Fetched) -> None:
    fetched.file.run()
    hub.asked.clear()
    again = Fetched(hub, fetched.blobs)
    again.file.run()
    check(hub, again)
    assert hub.asked == []
