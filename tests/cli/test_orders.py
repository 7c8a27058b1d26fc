"""``mlx-server load``, ``unload``, ``reload`` and ``ps`` against an api that answers what it is told to."""

import pytest

from shared.protocol import ModelStatus, StatusReport, WorkerStatus
from tests.cli.answering import answering
from tests.cli.command import call
from tests.ports import free_port


def test_load_waits_until_the_model_is_there_and_says_so() -> None:
    said = {"model": "org/name", "action": "load", "done": True, "status": "hot"}
    with answering(200, said) as (port, asked):
        done = call("load", "org/name", "--port", port)
    assert (done.returncode, done.stdout) == (0, "org/name is loaded.\n")
    assert asked == [("/admin/models/org/name/load", {"wait": True})]


def test_unload_without_waiting_says_what_will_be() -> None:
    with answering(202, {"model": "a", "done": False}) as (port, asked):
        done = call("unload", "a", "--no-wait", "--force", "--port", port)
    assert (done.returncode, done.stdout) == (0, "a will be unloaded.\n")
    assert asked == [("/admin/models/a/unload", {"wait": False, "force": True})]


def test_a_refusal_is_one_sentence_on_stderr() -> None:
    with answering(409, {"error": {"message": "'a' is pinned."}}) as (port, _):
        done = call("reload", "a", "--port", port)
    assert (done.returncode, done.stderr) == (1, "mlx-server: 'a' is pinned.\n")


@pytest.mark.parametrize("said", [[], "hello", {}, {"error": "x"}])
def test_another_server_is_not_taken_for_an_mlx_server(said: object) -> None:
    with answering(200, said) as (port, _):
        done = call("load", "a", "--port", port)
    assert done.returncode == 1
    assert "is not an mlx-server" in done.stderr


def test_an_order_without_a_server_is_one_sentence() -> None:
    done = call("load", "a", MLX_SERVER_PORT=str(free_port()))
    assert done.returncode == 1
    assert "Nothing answers at" in done.stderr


def test_ps_shows_what_is_in_memory_and_until_when() -> None:
    report = StatusReport(
        query="q",
        epoch="e",
        pid=1,
        uptime=1.0,
        models=[ModelStatus(id="a", state="hot", ttl=300.0), ModelStatus(id="b", state="loading", pinned=True)],
        workers=[
            WorkerStatus(
                id="w1", model="a", pid=2, state="ready", since=9.0, in_flight=0, spawned=True,
                memory=2_340_000_000, idle=61.0,
            ),
            WorkerStatus(
                id="w2", model="b", pid=3, state="loading", since=9.0, in_flight=0, spawned=True,
                phase="weights", done=1, total=4,
            ),
            WorkerStatus(
                id="w3", model="a", pid=4, state="ready", since=9.0, in_flight=2, spawned=False,
            ),
        ],
        in_flight=0,
        queued=0,
    )  # fmt: skip
    with answering(200, report.model_dump(mode="json")) as (port, _):
        done = call("ps", "--port", port)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "a ready 2.3 GB 0 1 min 3 min from now" in lines
    assert "b loading (weights 25 %) 0 pinned" in lines
    assert "a ready 2 static" in lines
