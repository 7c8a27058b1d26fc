"""Inspections as processes: what is read of them, and that none of them holds the broker up."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from broker.events import DownloadEnded, DownloadSaid, Inspected, SpareEnded, WorkerExited
from broker.system.supervisor import KEPT_LOGS, LOG_BYTES, Supervisor
from shared.protocol import Inspection

PATIENCE = 30.0  # seconds; a sleep of the programs below is longer


def supervisor(
    tmp_path: Path, script: str, inspection: float = PATIENCE, restore: Callable[[], None] = lambda: None
) -> Supervisor:
    return Supervisor(["/bin/sh", "-c", script], tmp_path, inspection, restore)


def kill_and_close(children: Supervisor, *workers: str) -> None:
    for worker in workers:
        children.signal(worker, signal.SIGKILL)
    children.close(PATIENCE)


def reaped(
    children: Supervisor,
) -> list[WorkerExited | Inspected | DownloadSaid | DownloadEnded | SpareEnded]:
    deadline = time.monotonic() + PATIENCE
    while not (found := children.reap()):
        assert time.monotonic() < deadline, "nothing ended"
        time.sleep(0.01)
    return found


def test_an_inspection_is_what_its_process_printed(tmp_path: Path) -> None:
    children = supervisor(tmp_path, """echo '{"weights": 5}'""")
    assert children.inspect("m")
    assert reaped(children) == [Inspected("m", Inspection(weights=5))]
    assert children.reap() == []


def test_a_process_that_printed_no_inspection_found_nothing(tmp_path: Path) -> None:
    for script in ("exit 0", "exit 70", "echo hello"):
        children = supervisor(tmp_path, script)
        assert children.inspect("m")
        assert reaped(children) == [Inspected("m", None)]


def test_an_inspection_without_a_program_cannot_begin(tmp_path: Path) -> None:
    children = Supervisor([str(tmp_path / "none")], tmp_path)
    assert not children.inspect("m")
    assert children.reap() == []


def test_an_inspection_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    children = supervisor(tmp_path, "exec sleep 600", inspection=-1.0)
    assert children.inspect("m")
    children.end_overdue_inspections()
    assert reaped(children) == [Inspected("m", None)]


def test_an_inspection_whose_own_child_holds_its_output_open_holds_nothing_up(tmp_path: Path) -> None:
    children = supervisor(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pid")
    try:
        assert children.inspect("m")
        assert reaped(children) == [Inspected("m", None)]
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_python_of_a_model_that_cannot_run_a_worker_is_said_of_the_model(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho No module named workers >&2; exit 1\n")
    other.chmod(0o700)
    children = supervisor(tmp_path, "exit 0")
    assert children.inspect("m", str(other))
    [found] = reaped(children)
    assert isinstance(found, Inspected)
    assert found.found
    assert found.found.permanent
    assert "the python of its table cannot run a worker" in found.found.reason


def test_a_worker_is_started_with_the_python_of_its_model(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text('#!/bin/sh\necho "$@"; exit 0\n')
    other.chmod(0o700)
    children = supervisor(tmp_path, "exit 1")
    assert children.spawn("worker-m-1", "m", str(other)) is None
    assert reaped(children) == [WorkerExited("worker-m-1", 0)]
    assert (tmp_path / "worker-m-1.log").read_text() == "-m workers --model m --id worker-m-1\n"


def test_files_that_workers_need_are_put_back_before_each_start(tmp_path: Path) -> None:
    said: list[str] = []
    children = supervisor(tmp_path, "exec sleep 600", restore=lambda: said.append("restored"))
    children.spawn("worker-1", "m")
    children.start_spare("spare-1")
    assert children.spawn_from("spare-1", "worker-2")
    before = len(said)
    children.hand_over("worker-2", "m")
    assert (before, len(said) > before) == (2, True)
    kill_and_close(children, "worker-1", "worker-2")


def test_only_the_newest_logs_of_workers_that_ended_are_kept_and_those_of_living_ones(tmp_path: Path) -> None:
    children = supervisor(tmp_path, "exec sleep 600")
    children.spawn("worker-first", "m")
    for number in range(KEPT_LOGS + 10):
        log = tmp_path / f"worker-ended-{number}.log"
        log.touch()
        os.utime(log, (2e9 + number, 2e9 + number))
    children.spawn("worker-last", "m")
    kept = {log.name for log in tmp_path.glob("worker-*.log")}
    assert {"worker-first.log", "worker-last.log", f"worker-ended-{KEPT_LOGS + 9}.log"} <= kept
    assert len(kept) <= KEPT_LOGS + 1  # the first one is older than all that count
    kill_and_close(children, "worker-first", "worker-last")


def test_the_log_of_a_living_worker_is_cut_to_its_end(tmp_path: Path) -> None:
    children = supervisor(tmp_path, "exec sleep 600")
    children.spawn("worker-1", "m")
    with (tmp_path / "worker-1.log").open("ab") as log:
        log.write(b"an old line\n" * (LOG_BYTES // 12 + 1) + b"the newest line\n")
    children.trim_logs()
    left = (tmp_path / "worker-1.log").read_bytes()
    assert len(left) <= LOG_BYTES
    assert left.endswith(b"\nthe newest line\n")
    children.signal("worker-1", signal.SIGKILL)
    children.close(PATIENCE)
