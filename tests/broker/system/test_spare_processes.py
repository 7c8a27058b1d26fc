"""Spare processes as the system has them: what is read of them, what they are told, and that none is left behind."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from broker.events import SpareEnded, SpareSaid, WorkerExited
from broker.system.supervisor import Supervisor
from tests.broker.stack import until

READY = """echo '{"footprint": 5}' >&0"""
ECHO = f"{READY}; read line; echo told $line; exec sleep 600"


@pytest.fixture
def supervisor(tmp_path: Path) -> Callable[[str], Supervisor]:
    return lambda script: Supervisor(["/bin/sh", "-c", script], tmp_path)


def test_a_spare_says_its_footprint_and_becomes_the_worker_that_it_is_told_to_be(
    supervisor: Callable[[str], Supervisor], tmp_path: Path
) -> None:
    children = supervisor(ECHO)
    assert children.start_spare("worker-spare-1") is None
    assert first_of(children.read) == [SpareSaid("worker-spare-1", 5)]
    assert children.spawn_from("worker-spare-1", "worker-m-1")
    pid = children.pid_of("worker-m-1")
    assert pid
    assert children.hand_over("worker-m-1", "m") is None
    log = tmp_path / "worker-m-1.log"
    until(lambda: "told" in log.read_text())
    assert '"worker":"worker-m-1","model":"m"' in log.read_text()
    assert not (tmp_path / "worker-spare-1.log").exists()
    children.signal("worker-m-1", 9)
    assert first_of(children.reap) == [WorkerExited("worker-m-1", -9, tuple(log.read_text().splitlines()))]


def test_a_spare_that_has_ended_is_reported_and_becomes_no_worker(
    supervisor: Callable[[str], Supervisor], tmp_path: Path
) -> None:
    children = supervisor(f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exit 3")
    assert children.start_spare("worker-spare-1") is None
    until((tmp_path / "pid").exists)
    until(lambda: is_zombie(int((tmp_path / "pid").read_text())))
    assert not children.spawn_from("worker-spare-1", "worker-m-1")
    assert children.pid_of("worker-m-1") == 0
    assert first_of(children.reap) == [SpareEnded("worker-spare-1", "exited with code 3")]


def test_a_spare_that_dies_before_it_is_told_its_model_is_replaced_by_a_new_process(
    supervisor: Callable[[str], Supervisor], tmp_path: Path
) -> None:
    children = supervisor("exec sleep 600")
    children.start_spare("worker-spare-1")
    assert children.spawn_from("worker-spare-1", "worker-m-1")
    first = children.pid_of("worker-m-1")
    children.signal("worker-m-1", 9)
    until(
        lambda: (
            (Path(f"/proc/{first}/stat").read_text().split()[2] == "Z")
            if Path(f"/proc/{first}").exists()
            else True
        )
    )
    assert children.hand_over("worker-m-1", "m") is None
    assert children.pid_of("worker-m-1") not in (0, first)
    children.signal("worker-m-1", 9)
    assert first_of(children.reap) == [WorkerExited("worker-m-1", -9)]


def test_no_spare_is_left_behind_when_the_broker_leaves(supervisor: Callable[[str], Supervisor]) -> None:
    children = supervisor("exec sleep 600")
    children.start_spare("worker-spare-1")
    began = time.monotonic()
    children.close(0.0)
    assert children.spares.names == []
    assert time.monotonic() - began < 60


def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    reason = Supervisor([str(tmp_path / "none")], tmp_path).start_spare("worker-spare-1")
    assert reason == "could not be started: No such file or directory"


def is_zombie(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def first_of(ask: Callable[[], Sequence[object]]) -> list[object]:
    """What it gives as soon as it gives anything."""
    found: list[object] = []

    def look() -> bool:
        found[:] = ask()
        return bool(found)

    until(look)
    return found
