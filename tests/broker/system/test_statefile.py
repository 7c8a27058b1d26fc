"""``state.json`` on a disk that is full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from broker.startup import Survivor
from broker.system.statefile import RETRY, StateFile


def me(model: str) -> Survivor:
    return Survivor("worker-1", model, os.getpid(), spawned=True, ready=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]).returncode:
        pytest.skip("only root can mount a small disk")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(b"x" * 4096):
            pass


def test_on_a_full_disk_the_state_is_written_over_in_place(disk: Path) -> None:
    state = StateFile(disk / "state.json")
    state.write([me("a" * 50), me("b")], lambda _: 0)
    fill(disk)
    state.write([me("c")], lambda _: 0)
    assert StateFile(disk / "state.json").read() == (me("c"),)


def test_a_state_that_does_not_fit_on_the_disk_leaves_the_last_one_whole_and_is_tried_again(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = [0.0]
    path = disk / "state.json"
    state = StateFile(path, clock=lambda: times[-1])
    state.write([me("a")], lambda _: 0)
    fill(disk)
    many = [me(f"model-{number}") for number in range(100)]
    for now in (0.0, RETRY / 2, RETRY, 2 * RETRY):  # noqa: B007 - the clock of the file
        state.write(many, lambda _: 0)
    assert caplog.text.count("cannot be written") == 1
    assert StateFile(path).read() == (me("a"),)
    (disk / "filler").unlink()
    state.write(many, lambda _: 0)
    assert StateFile(path).read() == (me("a"),), "so soon after the last attempt it is not tried"
    times.append(4 * RETRY)
    state.write(many, lambda _: 0)
    assert StateFile(path).read() == tuple(many)
    assert sorted(disk.iterdir()) == [path]
