"""``serve --detach``, ``stop`` and ``logs``, with stand-ins for broker and api."""

import os
from pathlib import Path

import pytest

from cli import stack_processes
from tests.cli.command import ROOT, STAND_INS, run
from tests.ports import free_port


def command(run_dir: Path, *arguments: str) -> tuple[int, str, str]:
    done = run(
        *arguments,
        "--run-dir",
        str(run_dir),
        PYTHONPATH=f"{STAND_INS}{os.pathsep}{ROOT}",
        STAND_IN="",
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_detached_server_is_ready_shows_its_logs_and_is_stopped(run_dir: Path) -> None:
    port = str(free_port())
    code, said, _ = command(run_dir, "serve", "--detach", "--port", port)
    try:
        assert code == 0
        assert "stop` stops the server" in said
        assert f"127.0.0.1:{port}/v1" in said
        again, _, why = command(run_dir, "serve", "-d", "--port", port)
        assert again == 75
        assert "Another mlx-server" in why
        code, log, _ = command(run_dir, "logs", "supervisord", "-n", "5")
        assert (code, bool(log)) == (0, True)
    finally:
        stopped = command(run_dir, "stop")
    assert stopped[:2] == (0, "The server has stopped.\n")
    assert stack_processes.find(str(run_dir)) == []
    assert command(run_dir, "stop")[:2] == (0, f"No server runs in {run_dir}.\n")


def test_logs_that_are_not_there_are_said_to_be_missing(run_dir: Path) -> None:
    code, _, said = command(run_dir, "logs", "nothing")
    assert code == 1
    assert "there: none" in said
