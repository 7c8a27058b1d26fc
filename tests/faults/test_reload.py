"""mlx-server.toml changed while the server runs: read anew on a signal or by HTTP, with running streams left alone."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.stack import Stack
from tests.faults.client import Stream
from tests.faults.stack import all_right, cmdline

COMMAND = json.dumps([sys.executable, "-m", "tests.programs.scripted_worker", "--step", "0.02"])
BEFORE = '[models.a]\nsource = "/none"\naliases = ["gpt-4o"]\n'
AFTER = '[models.a]\nsource = "/none"\ncontext_length = 512\n\n[models.b]\nsource = "/none"\naliases = ["gpt-4o"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mlx-server.toml"
    path.write_text(BEFORE)
    return path


@pytest.fixture
def stack(file: Path) -> Iterator[Stack]:
    stack = Stack({"worker_command": COMMAND, "config": file, "min_stay": 0.0})
    try:
        yield stack
    finally:
        stack.close()


def ids(stack: Stack) -> list[str]:
    return sorted(model["id"] for model in stack.http.get("/v1/models").json()["data"])


@pytest.mark.slow
def test_a_changed_file_is_read_anew_and_running_streams_go_on(stack: Stack, file: Path) -> None:
    running = Stream(stack.port, 1, 80, "a")
    stack.until(lambda: stack.in_flight() == 1, "a running stream")
    [first] = stack.workers("a")
    file.write_text(AFTER)
    answer = stack.http.post("/admin/reload")
    assert "model 'b' is new" in answer.json()["changes"]
    assert ids(stack) == ["a", "b", "gpt-4o"]
    assert stack.http.get("/v1/models/gpt-4o").json()["alias_of"] == "b"
    all_right([running])
    stack.until(lambda: first["id"] not in [w["id"] for w in stack.workers("a")], "loaded anew")
    all_right([Stream(stack.port, 2, 5, "b"), Stream(stack.port, 3, 5, "a")])


@pytest.mark.slow
def test_a_signal_reads_the_file_anew_and_a_wrong_file_changes_nothing(stack: Stack, file: Path) -> None:
    [broker] = [p for p in stack.descendants() if " -m broker" in " ".join(cmdline(p))]
    file.write_text(AFTER.replace("aliases", "alias", 1))
    answer = stack.http.post("/admin/reload")
    assert answer.status_code == 400
    assert "line 7" in answer.json()["error"]["message"]
    assert "did you mean aliases?" in answer.json()["error"]["message"]
    assert ids(stack) == ["a", "gpt-4o"]
    file.write_text(AFTER)
    psutil.Process(broker.pid).send_signal(signal.SIGHUP)
    stack.until(lambda: "b" in ids(stack), "served under the new settings")
