"""A real spare process on a socket: it imports, says so, and ends with its broker."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import exits
from tests.cli.command import ROOT

PATIENCE = 120.0  # seconds, on a busy machine


@pytest.fixture
def spare(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE)
    process = subprocess.Popen(
        [sys.executable, "-m", "workers", "--spare", "worker-spare-1"],
        stdin=theirs.fileno(),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLX_SERVER_RUN_DIR": str(tmp_path)},
        cwd=tmp_path,
    )
    theirs.close()
    yield process, ours
    ours.close()
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_spare_has_imported_everything_when_it_is_ready_and_ends_when_its_broker_does(
    spare: tuple["subprocess.Popen[str]", socket.socket],
) -> None:
    process, broker = spare
    assert json.loads(broker.recv(1000))["footprint"] > 20 << 20
    mapped = Path(f"/proc/{process.pid}/maps")
    if mapped.exists():
        assert "libmlx" in mapped.read_text()
    broker.close()
    assert process.wait(PATIENCE) == exits.STOPPED


@pytest.mark.slow
def test_a_spare_becomes_the_worker_it_is_told_to_be_by_the_settings_of_that_moment(
    spare: tuple["subprocess.Popen[str]", socket.socket], tmp_path: Path
) -> None:
    process, broker = spare
    broker.recv(1000)
    (tmp_path / ".env").write_text("MLX_SERVER_PORT=none\n")
    broker.sendall(b'{"worker": "worker-m-1", "model": "m"}\n')
    assert process.wait(PATIENCE) == 2
    assert process.stderr
    assert "MLX_SERVER_PORT" in process.stderr.read()


@pytest.mark.slow
def test_a_spare_that_is_told_its_model_while_it_imports_becomes_the_worker_though_the_broker_has_closed_the_socket(
    spare: tuple["subprocess.Popen[str]", socket.socket], tmp_path: Path
) -> None:
    process, broker = spare
    assert process.stderr
    assert "OpenBLAS" in process.stderr.readline()  # it has read its settings
    (tmp_path / ".env").write_text("MLX_SERVER_PORT=none\n")
    broker.sendall(b'{"worker": "worker-m-1", "model": "m"}\n')
    broker.close()
    assert process.wait(PATIENCE) == 2
    assert "MLX_SERVER_PORT" in process.stderr.read()
