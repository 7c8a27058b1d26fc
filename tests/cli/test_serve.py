"""``mlx-server serve`` with stand-ins for broker and api: start, stop, and no processes left."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from cli import stack_processes
from tests.cli.command import run, start
from tests.ports import free_port

DEADLINE = 60.0  # on a busy machine


@dataclass
class Served:
    process: subprocess.Popen[str]
    run_dir: Path
    port: int
    pids: set[int] = field(default_factory=set)

    def read_until(self, line: str) -> list[str]:
        """The output since the last call; the test's timeout bounds the wait."""
        assert self.process.stdout
        lines: list[str] = []
        while not lines or line not in lines[-1]:
            lines.append(self.process.stdout.readline())
            assert lines[-1], (lines, self.process.stderr and self.process.stderr.read())
        return lines

    def end(self) -> tuple[int, str]:
        """The exit code and the rest of stderr."""
        said = self.process.communicate(timeout=DEADLINE)[1]
        return self.process.returncode, said

    def wait_until_ready(self) -> str:
        """The output until the server is ready; from then on its processes are known by pid too."""
        said = self.read_until("Ctrl-C stops")
        self.pids |= {self.pid(name) for name in ("supervisord", "broker", "worker")}
        return "".join(said)

    def pid(self, name: str) -> int:
        return int((self.run_dir / f"{name}.pid").read_text())

    def assert_nothing_is_left(self) -> None:
        """Known processes by pid, others by their environment variable."""
        assert not [pid for pid in self.pids if is_alive(pid)]
        assert stack_processes.find(str(self.run_dir)) == []


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def serving(run_dir: Path, *options: str, stand_in: str = "") -> Iterator[Served]:
    port = free_port()
    process = start("serve", "--port", str(port), "--run-dir", str(run_dir), *options, stand_in=stand_in)
    try:
        yield Served(process, run_dir, port)
    finally:
        process.kill()
        stack_processes.send(signal.SIGKILL, stack_processes.find(str(run_dir)))
        process.communicate()


@pytest.fixture
def served(run_dir: Path) -> Iterator[Served]:
    with serving(run_dir) as served:
        yield served


def test_serve_prints_the_models_the_address_and_a_first_request(served: Served) -> None:
    text = served.wait_until_ready()
    assert "Serving mlx-community/Llama-3.2-3B-Instruct-4bit, smollm2-135m-instruct" in text
    assert f"http://127.0.0.1:{served.port}/v1\n" in text
    assert f"http://127.0.0.1:{served.port}/ui\n" in text
    assert str(served.run_dir / "log") in text
    assert "BLAS" in text
    assert f"curl http://127.0.0.1:{served.port}/v1/chat/completions" in text
    assert '"model": "smollm2-135m-instruct"' in text


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_stops_the_stack_in_order_with_its_workers(served: Served, number: signal.Signals) -> None:
    served.wait_until_ready()
    served.process.send_signal(number)
    assert served.end() == (0, "")
    assert (served.run_dir / "told").read_text().startswith("SIGINT\n")
    served.assert_nothing_is_left()


def test_a_ctrl_c_of_the_terminal_reaches_only_the_serve_process(served: Served) -> None:
    served.wait_until_ready()
    sessions = {os.getsid(process.pid) for process in stack_processes.find(str(served.run_dir))}
    assert os.getsid(served.process.pid) not in sessions


@pytest.mark.slow
def test_a_second_ctrl_c_kills_processes_that_do_not_stop(run_dir: Path) -> None:
    with serving(run_dir, stand_in="stubborn") as served:
        served.wait_until_ready()
        served.process.send_signal(signal.SIGINT)
        served.read_until("Stopping")
        served.process.send_signal(signal.SIGINT)
        assert served.end()[0] == 130
        served.assert_nothing_is_left()


@pytest.mark.slow
def test_a_ctrl_c_during_the_start_ends_the_stack(run_dir: Path) -> None:
    with serving(run_dir, stand_in="unready") as served:
        wait_for(run_dir / "broker.pid")
        served.process.send_signal(signal.SIGINT)
        assert served.end()[0] == 0
        served.assert_nothing_is_left()


@pytest.mark.slow
def test_a_stack_that_does_not_become_ready_shows_the_log_with_the_reason(run_dir: Path) -> None:
    with serving(run_dir, "--ready-timeout", "3", stand_in="unready") as served:
        code, said = served.end()
        assert code == 1
        assert "did not become ready" in said
        assert "/ready says 503: as I was told" in said
        assert "api: these are the last words" in said
        served.assert_nothing_is_left()


@pytest.mark.slow
def test_a_stack_whose_process_ends_each_time_is_given_up_early(run_dir: Path) -> None:
    with serving(run_dir, stand_in="falling") as served:
        code, said = served.end()
        assert code == 1
        assert "ends each time it is started" in said
        assert "api: these are the last words" in said
        served.assert_nothing_is_left()


@pytest.mark.slow
def test_if_supervisord_dies_all_processes_of_the_stack_end(served: Served) -> None:
    served.wait_until_ready()
    os.kill(served.pid("supervisord"), signal.SIGKILL)
    code, said = served.end()
    assert code == 1
    assert "supervisord has ended" in said
    served.assert_nothing_is_left()


@pytest.mark.slow
def test_a_second_serve_on_the_same_run_directory_is_refused(served: Served) -> None:
    served.wait_until_ready()
    done = run("serve", "--port", str(free_port()), "--run-dir", str(served.run_dir))
    assert done.returncode == 75
    assert f"(pid {served.process.pid})" in done.stderr


@pytest.mark.slow
def test_a_broker_that_dies_is_restarted_by_supervisord(served: Served) -> None:
    served.wait_until_ready()
    assert "cli.supervisord" in psutil.Process(served.pid("supervisord")).cmdline(), (
        "the one that looks often"
    )
    first = served.pid("broker")
    (served.run_dir / "broker.pid").unlink()
    os.kill(first, signal.SIGKILL)
    wait_for(served.run_dir / "broker.pid")
    served.process.send_signal(signal.SIGINT)
    assert served.end()[0] == 0
    served.assert_nothing_is_left()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.01)
