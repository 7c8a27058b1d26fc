"""``mlx-server doctor`` on machines that are well and on broken ones."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import serve
from tests.cli.command import run
from tests.ports import free_port


def findings(tmp_path: Path, *arguments: str, **more: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the worst finding by subject."""
    given = {
        "MLX_SERVER_RUN_DIR": str(tmp_path / "not" / "there" / "run"),
        "MLX_SERVER_CACHE_DIR": str(tmp_path / "cache"),
        "MLX_SERVER_AVAILABLE_MODELS": "smollm2-135m-instruct",
        "MLX_SERVER_PORT": str(free_port()),
        "HF_HOME": str(tmp_path / "hf"),
        **more,
    }
    done = run("doctor", "--json", *arguments, **given)
    order = ("well", "care", "wrong")
    found = sorted(json.loads(done.stdout), key=lambda each: order.index(each["state"]))
    return done.returncode, {each["subject"]: each for each in found}


def test_a_machine_that_is_well_exits_0_and_nothing_is_left_behind(tmp_path: Path) -> None:
    code, found = findings(tmp_path, MLX_SERVER_MAX_CACHE_SIZE_GB="1")
    assert code == 0
    assert {each["state"] for each in found.values()} <= {"well", "care"}
    assert not list(tmp_path.iterdir())


def test_the_findings_of_a_person_are_lines_with_arrows_to_remedies(tmp_path: Path) -> None:
    done = run("doctor", MLX_SERVER_MAX_CACHE_SIZE_GB="128", MLX_SERVER_RUN_DIR=str(tmp_path / "run"))
    assert "budget is 128 GB" in done.stdout
    assert "→ set MLX_SERVER_MAX_CACHE_SIZE_GB" in done.stdout


def test_what_keeps_a_server_from_serving_is_wrong_and_exits_1_and_all_of_it_is_said_at_once(
    tmp_path: Path,
) -> None:
    code, found = findings(
        tmp_path,
        MLX_SERVER_AVAILABLE_MODELS="mine=/no/such/folder",
        MLX_SERVER_MAX_CACHE_SIZE_GB="128",
        MLX_SERVER_HOST="0.0.0.0",
        MLX_SERVER_RUN_DIR="/dev/null/run",
    )
    assert code == 1
    said = {
        "models": "there is no folder",
        "memory": "the budget is 128 GB",
        "API keys": "nobody checks who asks",
        "run directory": "cannot use",
    }
    for subject, words in said.items():
        assert (found[subject]["state"], words in found[subject]["found"]) == ("wrong", True), found[subject]


@pytest.mark.slow
def test_a_port_of_another_program_is_wrong(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, found = findings(tmp_path, MLX_SERVER_PORT=str(taken.getsockname()[1]))
    assert (code, found["port"]["state"]) == (1, "wrong")
    assert "in use" in found["port"]["found"]


def test_a_server_that_runs_is_no_fault(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b'{"name": "mlx-server"}'})

    with serve(app, lifespan="off") as port:
        code, found = findings(tmp_path, MLX_SERVER_PORT=str(port))
    assert (code, found["port"]["found"]) == (0, f"an mlx-server answers at 127.0.0.1:{port}")


def test_a_hub_out_of_reach_is_a_care_when_a_model_comes_from_it(tmp_path: Path) -> None:
    code, found = findings(
        tmp_path,
        MLX_SERVER_AVAILABLE_MODELS="org/name",
        HF_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        HTTPS_PROXY="",
        https_proxy="",
    )
    assert (code, found["hub"]["state"]) == (0, "care")
    assert "cannot be reached" in found["hub"]["found"]
    _, offline = findings(tmp_path, MLX_SERVER_AVAILABLE_MODELS="org/name", HF_HUB_OFFLINE="1")
    assert "nothing is downloaded" in offline["hub"]["found"]


def test_broken_keys_are_wrong(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text("no")
    code, found = findings(tmp_path, MLX_SERVER_KEYS_FILE=str(keys))
    assert (code, found["API keys"]["state"]) == (1, "wrong")
