"""The children that fetch models as processes: what is read of them, and how they end."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from broker.events import DownloadEnded, DownloadSaid
from broker.system.download_processes import DownloadProcesses
from shared.protocol import DownloadReport

PATIENCE = 30.0  # seconds; a sleep of the programs below is longer
T = TypeVar("T")


def child(script: str) -> DownloadProcesses:
    children = DownloadProcesses(("/bin/sh", "-c", script))
    assert children.start("m") is None
    return children


def first(found: Callable[[], list[T]]) -> list[T]:
    deadline = time.monotonic() + PATIENCE
    while not (these := found()):
        assert time.monotonic() < deadline, "nothing came"
        time.sleep(0.01)
    return these


def end(children: DownloadProcesses) -> None:
    children.close()
    children.reap()


def test_what_a_child_said_last_is_heard_before_its_end() -> None:
    children = child("""echo '{"phase": "download"}'; echo '{"whole": true}'""")
    assert first(children.reap) == [
        DownloadSaid("m", DownloadReport(whole=True)),
        DownloadEnded("m", "exited with code 0"),
    ]
    assert children.reap() == []


def test_a_line_that_is_no_report_is_passed_over() -> None:
    children = child("""echo '{"phase": "finish"}'; echo 'a warning'; echo '{"done": "much"}'; exit 3""")
    assert first(children.reap) == [
        DownloadSaid("m", DownloadReport(phase="finish")),
        DownloadEnded("m", "exited with code 3"),
    ]


def test_a_line_of_a_million_bytes_holds_nothing_up_and_the_next_one_is_read() -> None:
    children = child("""head -c 1000000 /dev/zero; echo; echo '{"phase": "connect"}'; exec sleep 600""")
    assert first(children.read) == [DownloadSaid("m", DownloadReport(phase="connect"))]
    end(children)


def test_a_report_in_two_pieces_is_one_report(tmp_path: Path) -> None:
    said, gate = tmp_path / "said", tmp_path / "gate"
    wait = f"touch {said}; until [ -e {gate} ]; do sleep 0.01; done"
    children = child(f"""printf '{{"phase": '; {wait}; echo '"connect"}}'; exec sleep 600""")
    first(lambda: [said] if said.exists() else [])
    assert children.read() == []
    gate.touch()
    assert first(children.read) == [DownloadSaid("m", DownloadReport(phase="connect"))]
    end(children)


def test_a_child_that_is_stopped_ends() -> None:
    children = child("exec sleep 600")
    children.stop("m")
    assert first(children.reap) == [DownloadEnded("m", "was killed by SIGTERM")]
    children.stop("m")


def test_a_child_that_cannot_be_started_says_why() -> None:
    children = DownloadProcesses(("/nonesuch",))
    assert children.start("m") == "could not be started: No such file or directory"
    assert children.reap() == []


def test_a_broker_that_ends_leaves_no_child() -> None:
    children = child("exec sleep 600")
    children.close()
    assert children.reap() == [DownloadEnded("m", "was killed by SIGKILL")]
