"""``mlx-server status`` against an api that answers a broker's report."""

import json

import pytest

from shared.commands import typed
from shared.protocol import ModelStatus, StatusReport, WorkerStatus
from tests.cli.answering import answering
from tests.cli.command import call
from tests.ports import free_port

REPORT = StatusReport(
    query="q",
    epoch="e1",
    pid=17,
    uptime=3700.0,
    models=[
        ModelStatus(id="a/b", state="hot", queued=2, context_length=4096),
        ModelStatus(id="[c]", state="failed", reason="no such file"),
        ModelStatus(id="d", state="downloading", done=42, total=100, rate=12.3e6, eta=31.0),
    ],
    workers=[
        WorkerStatus(
            id="w1",
            model="a/b",
            pid=18,
            state="loading",
            since=61.0,
            in_flight=3,
            spawned=True,
            phase="weights",
        )
    ],
    in_flight=3,
    queued=2,
)


def test_status_prints_tables_of_models_and_workers() -> None:
    with answering(200, REPORT.model_dump_json()) as (port, asked):
        done = call("status", "--port", port)
    assert done.returncode == 0
    assert asked == [("/admin/status", None)]
    first, *rest = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert first.endswith("broker e1, pid 17, up 1 h; 3 in flight, 2 queued")
    assert "a/b hot 2 4096" in rest
    assert "[c] failed 0 no such file" in rest
    assert "d downloading (42 %, 12.3 MB/s, 31 s left) 0" in rest
    assert "w1 a/b 18 loading (weights) 1 min 3" in rest


def test_status_with_json_prints_the_report_itself() -> None:
    with answering(200, REPORT.model_dump_json()) as (port, _):
        done = call("status", "--json", "--port", port)
    assert json.loads(done.stdout) == json.loads(REPORT.model_dump_json())


def test_status_without_a_server_is_one_sentence() -> None:
    port = free_port()
    done = call("status", MLX_SERVER_PORT=str(port))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"mlx-server: Nothing answers at http://127.0.0.1:{port}. `{typed('mlx-server')} serve` starts a server."
    ]


def test_a_refusal_of_the_api_is_printed_by_status() -> None:
    with answering(503, '{"error": "no broker"}') as (port, _):
        done = call("status", "--port", port)
    assert done.returncode == 1
    assert '503: {"error": "no broker"}' in done.stderr


@pytest.mark.parametrize("body", ["", "hello", "[]", "{}", "\N{SNOWMAN}"])
def test_another_server_on_the_port_is_not_taken_for_an_mlx_server(body: str) -> None:
    with answering(200, body) as (port, _):
        done = call("status", "--port", port)
    assert done.returncode == 1
    assert "is not an mlx-server" in done.stderr
