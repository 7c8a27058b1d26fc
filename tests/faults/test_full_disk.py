"""The disk of the run directory is full, of bytes or of files, and things die: logs suffer, answers do not."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.e2e.stack import DEADLINE
from tests.faults.stack import FaultStack, all_right
from tests.faults.test_workers import warm


class SmallDisk(FaultStack):
    """Its run directory is a file system of its own, with room for 1 MB and 60 files."""

    def make_folder(self) -> Path:
        folder = super().make_folder()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=60,mode=700", "tmpfs", str(folder)]
        self.mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        if not self.mounted:
            folder.rmdir()
            pytest.skip("only root can mount a small disk")
        return folder

    def close(self) -> None:
        super().close()
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
        self.folder.rmdir()

    def fill_with_bytes(self) -> None:
        """To the last one."""
        with (self.folder / "filler-0").open("wb", buffering=0) as filler, suppress(OSError):
            for size in (65536, 1):
                with suppress(OSError):
                    while filler.write(b"x" * size):
                        pass

    def fill_with_files(self) -> None:
        with suppress(OSError):
            for number in range(1000):
                (self.folder / f"filler-{number}").touch(exist_ok=False)

    def empty(self) -> None:
        for filler in self.folder.glob("filler-*"):
            filler.unlink()

    def kill(self, name: str) -> None:
        """And waits until there is another."""
        victim = self.program(name)
        victim.send_signal(signal.SIGKILL)
        victim.wait(DEADLINE)
        self.until(lambda: self.program(name).pid != victim.pid, f"a new {name}")


@pytest.fixture(scope="module")
def disk() -> Iterator[SmallDisk]:
    stack = SmallDisk("--step", "0.01")
    yield stack
    stack.close()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["bytes", "files"])
def test_a_full_disk_stops_no_answer_whatever_is_killed_and_no_log_once_there_is_room(
    disk: SmallDisk, what: str
) -> None:
    warm(disk)
    disk.fill_with_bytes() if what == "bytes" else disk.fill_with_files()
    supervisord = psutil.Process(disk.process.pid).children()[0]
    streams = [disk.stream(seed, 100) for seed in range(3)]
    streams[0].wait_for_word()
    os.kill(disk.worker_pid(), signal.SIGKILL)
    warm(disk)
    disk.kill("broker")
    all_right(streams)
    disk.kill("api")
    disk.until(disk._is_ready, "ready")
    os.kill(disk.worker_pid(), signal.SIGKILL)
    disk.kill("broker")
    all_right([disk.stream(9, 20)])
    assert supervisord.is_running()
    disk.empty()
    pid = disk.kill_broker()
    disk.until(
        lambda: f"serving a, b in {disk.folder}" in disk.log("broker").rpartition(str(pid))[2], "logged"
    )
    all_right([disk.stream(8, 20)])
    disk.check()
