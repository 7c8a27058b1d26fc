"""Refusals before anything is started."""

import fcntl
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import call
from tests.ports import free_port


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def serve(run_dir: Path, *options: str, port: int | None = None) -> subprocess.CompletedProcess[str]:
    return call("serve", "--run-dir", str(run_dir), "--port", str(port or free_port()), *options)


def assert_refused(done: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    """The one line of the refusal, with nothing started."""
    assert done.returncode == exit_code
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for word in words:
        assert word in done.stderr


def test_a_port_in_use_is_named(run_dir: Path, taken_port: int) -> None:
    assert_refused(serve(run_dir, port=taken_port), 75, f"Port {taken_port} on 127.0.0.1 is in use", "--port")
    assert not (run_dir / "log").exists()


@pytest.mark.parametrize("lock", ["serve.lock", "broker.lock"])
def test_another_stack_in_the_run_directory_is_named_by_its_pid(run_dir: Path, lock: str) -> None:
    with (run_dir / lock).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711\n")
        file.flush()
        assert_refused(serve(run_dir), 75, "(pid 4711)", str(run_dir))


def test_a_broker_without_serve_is_refused_with_the_command_that_stops_its_supervisord(run_dir: Path) -> None:
    (run_dir / "supervisord.pid").write_text("4712\n")
    with (run_dir / "broker.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_refused(serve(run_dir), 75, "`kill 4712`")


@pytest.mark.slow
def test_a_refused_port_releases_the_run_directory(run_dir: Path, taken_port: int) -> None:
    assert_refused(serve(run_dir, port=taken_port), 75, "in use")
    assert_refused(serve(run_dir, port=taken_port), 75, "in use")


def test_a_run_directory_open_to_others_is_refused(run_dir: Path) -> None:
    run_dir.chmod(0o755)
    assert_refused(serve(run_dir), 2, "MLX_SERVER_RUN_DIR", "others may enter", "chmod 700")


def test_a_symbolic_link_or_a_file_is_refused_as_run_directory(run_dir: Path) -> None:
    (run_dir / "real").mkdir(mode=0o700)
    (run_dir / "link").symlink_to(run_dir / "real")
    (run_dir / "file").touch()
    assert_refused(serve(run_dir / "link"), 2, "MLX_SERVER_RUN_DIR", "not a directory of yours")
    assert_refused(serve(run_dir / "file"), 2, "MLX_SERVER_RUN_DIR")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_run_directory_of_another_user_is_refused(run_dir: Path) -> None:
    os.chown(run_dir, 1, 1)
    assert_refused(serve(run_dir), 2, "not a directory of yours")


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "::1"])
def test_a_host_address_of_another_machine_is_refused(run_dir: Path, host: str) -> None:
    assert_refused(serve(run_dir, "--host", host), 2, "MLX_SERVER_HOST", host)
