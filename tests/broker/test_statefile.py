"""``state.json`` on a disk that is full."""

import os
from pathlib import Path

import pytest

from broker.life import Survivor
from broker.statefile import StateFile


def me(model: str) -> Survivor:
    return Survivor("worker-1", model, os.getpid(), spawned=True, ready=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk here is full")
def test_a_full_disk_leaves_the_last_state_whole_and_the_next_try_writes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state.json"
    state = StateFile(path)
    state.write([me("a")], lambda _: 0)
    path.with_suffix(".new").symlink_to("/dev/full")
    state.write([me("b")], lambda _: 0)
    assert "cannot be written" in caplog.text
    assert StateFile(path).read() == (me("a"),)
    assert sorted(tmp_path.iterdir()) == [path]
    state.write([me("b")], lambda _: 0)
    assert StateFile(path).read() == (me("b"),)
