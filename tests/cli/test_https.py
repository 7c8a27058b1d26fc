"""A whole server with a certificate that signed itself: the commands, clients and a renewal without a restart."""

import json
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.certificates import Pair, expired, self_signed
from tests.cli.command import COMMAND, ROOT, call, environment, run
from tests.ports import free_port


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    folder = Path("/tmp") / f"mlx-https-{free_port()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return self_signed(folder)


@pytest.fixture(scope="module")
def server(folder: Path, pair: Pair) -> Iterator[dict[str, str]]:
    """What its commands are told in the environment."""
    settings = {
        **pair.settings,
        "MLX_SERVER_PORT": str(free_port()),
        "MLX_SERVER_RUN_DIR": str(folder / "run"),
        "MLX_SERVER_AVAILABLE_MODELS": "tiny=/none",
        "MLX_SERVER_WORKER_COMMAND": json.dumps([sys.executable, "-m", "tests.programs.scripted_worker"]),
    }
    process = subprocess.Popen(
        [*COMMAND, "serve"], env=environment(**settings), stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout
        said = "".join(iter(process.stdout.readline, "Ctrl-C stops the server.\n"))
        assert f"at https://127.0.0.1:{settings['MLX_SERVER_PORT']}/v1\n" in said
        assert f"curl --cacert {pair.certificate} https://127.0.0.1" in said
        yield settings
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_commands_reach_a_server_by_its_own_certificate(server: dict[str, str], pair: Pair) -> None:
    where = f"https://127.0.0.1:{server['MLX_SERVER_PORT']}"
    assert run("run", "tiny", "Hi", "--max-tokens", "3", **server).returncode == 0
    assert where in call("status", **server).stdout
    assert "hot" in call("list", **server).stdout
    assert call("bench", "--clients", "1", "--requests", "1", "--max-tokens", "2", **server).returncode == 0
    assert call("unload", "tiny", **server).returncode == 0
    printed = call("launch", "aider", "--print", **server).stdout
    assert f"SSL_CERT_FILE={pair.certificate}" in printed
    assert f"OPENAI_API_BASE={where}/v1" in printed
    found = json.loads(run("doctor", "--json", **server).stdout)
    assert [each["state"] for each in found if each["subject"] in ("port", "certificate")] == ["well", "well"]


@pytest.mark.slow
def test_a_command_without_the_certificate_says_which_setting_it_needs(server: dict[str, str]) -> None:
    done = call("status", MLX_SERVER_PORT=server["MLX_SERVER_PORT"])
    assert done.returncode == 1
    assert "MLX_SERVER_TLS_CERTIFICATE" in done.stderr


@pytest.mark.slow
def test_a_command_with_an_authority_checks_the_servers_name(server: dict[str, str], pair: Pair) -> None:
    elsewhere = {name: server[name] for name in ("MLX_SERVER_PORT", "MLX_SERVER_RUN_DIR")}
    trusting = {**elsewhere, "MLX_SERVER_TLS_CA": str(pair.certificate)}
    assert call("status", **trusting).returncode == 0
    done = call("status", **trusting, MLX_SERVER_HOST="127.0.0.2")
    assert (done.returncode, "MLX_SERVER_TLS_CA" in done.stderr or "Nothing answers" in done.stderr) == (
        1,
        True,
    )


def test_a_server_shows_a_renewed_certificate_without_a_restart(
    server: dict[str, str], pair: Pair, folder: Path
) -> None:
    renewed = self_signed(folder, "renewed")
    shutil.copy(renewed.key, pair.key)
    shutil.copy(renewed.certificate, pair.certificate)
    trust = ssl.create_default_context(cafile=renewed.certificate)
    url = f"https://localhost:{server['MLX_SERVER_PORT']}/v1/models"
    assert httpx.get(url, verify=trust).json()["data"][0]["id"] == "tiny"
    assert call("status", **server).returncode == 0


def test_serve_refuses_an_expired_certificate_by_its_setting(tmp_path: Path) -> None:
    old = expired(tmp_path)
    done = call("serve", "--run-dir", str(tmp_path / "run"), **old.settings)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"MLX_SERVER_TLS_CERTIFICATE: {old.certificate}" in done.stderr
    assert "expired" in done.stderr


@pytest.mark.slow
def test_the_api_refuses_a_certificate_that_cannot_be_read_with_one_line(run_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api"],
        env=environment(MLX_SERVER_RUN_DIR=str(run_dir), MLX_SERVER_TLS_CERTIFICATE=str(run_dir / "no.pem")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert "MLX_SERVER_TLS_CERTIFICATE" in done.stderr
