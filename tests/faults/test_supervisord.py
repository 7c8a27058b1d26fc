"""supervisord is killed, and started again beside what it left: nothing is there twice, and no client notices.

The api's port is what the second one cannot have; were it another port, the broker's lock would be.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.faults.stack import ROOT, FaultStack, all_right
from tests.faults.test_workers import warm


class Bare(FaultStack):
    """Without ``mlx-server serve``, which ends when its supervisord does."""

    command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(ROOT / "supervisord.conf")]

    def __init__(self) -> None:
        super().__init__("--step", "0.02", host="127.0.0.1", python=sys.executable, api_processes=1)

    def start_another(self) -> subprocess.CompletedProcess[str]:
        """What it says, and how it ends."""
        return subprocess.run(
            self.command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture
def bare() -> Iterator[Bare]:
    stack = Bare()
    yield stack
    stack.close()


@pytest.mark.slow
def test_what_a_killed_supervisord_left_serves_on_and_a_second_one_does_not_start(bare: Bare) -> None:
    worker = warm(bare)
    broker = bare.status()["pid"]
    stream = bare.stream(1, 300)
    stream.wait_for_word()
    bare.family += [process for process in bare.descendants() if process not in bare.family]
    bare.process.send_signal(signal.SIGKILL)
    bare.process.wait()
    second = bare.start_another()
    assert second.returncode
    assert "Address already in use" in second.stderr
    all_right([stream, bare.stream(2, 10)])
    assert (bare.status()["pid"], bare.worker_pid()) == (broker, worker)
    bare.check()
