"""The child process that fetches a model, against a hub on this machine: what it fetches and what it says."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from shared.protocol import DownloadReport
from tests.hub import COMMIT, REPOSITORY, SECRET, Hub, without_a_hub
from tests.workers.model.folders import ROOT

QUIET = {"MLX_SERVER_DOWNLOAD_SILENCE": "20", "MLX_SERVER_DOWNLOAD_DISK_FLOOR_GB": "0.1"}
WHOLE = DownloadReport(whole=True)


def start(hub: Hub, model: str = REPOSITORY, **more: str) -> "subprocess.Popen[str]":
    environment = without_a_hub(hub.environment) | QUIET | {"MLX_SERVER_AVAILABLE_MODELS": model} | more
    return subprocess.Popen(
        [sys.executable, "-m", "workers.hub", model],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def reports(child: "subprocess.Popen[str]") -> list[DownloadReport]:
    said, errors = child.communicate(timeout=60)
    found = [DownloadReport.model_validate_json(line) for line in said.splitlines()]
    assert found, errors
    assert SECRET not in said + errors
    return found


def fetch(hub: Hub, model: str = REPOSITORY, **more: str) -> DownloadReport:
    return reports(start(hub, model, **more))[-1]


def local(hub: Hub) -> dict[str, bytes]:
    """The files of the snapshot, by name."""
    [snapshot] = hub.home.glob("hub/models--org--tiny/snapshots/*")
    files = [file for file in snapshot.rglob("*") if file.is_file()]
    return {str(file.relative_to(snapshot)): file.read_bytes() for file in files}


def snapshots(hub: Hub) -> list[Path]:
    return list(hub.home.glob("hub/models--org--tiny/snapshots/*/*"))


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_model_is_fetched_once_with_its_progress_and_without_code_or_other_formats(hub: Hub) -> None:
    unwanted = ("evil.py", "consolidated.safetensors", "pytorch_model.bin", "tiny.gguf", "x.pth", "x.pkl")
    for name in unwanted:
        (hub.folder / name).write_bytes(bytes(10))
    hub.rate = 2e5
    said = reports(start(hub))
    assert said[-1] == WHOLE
    size = hub.weights.stat().st_size
    counts = [report.done for report in said if report.phase == "download"]
    assert counts == sorted(counts)
    assert len(set(counts)) > 2
    assert all(report.total > size for report in said if report.phase == "download")
    files = local(hub)
    assert files["model.safetensors"] == hub.weights.read_bytes()
    assert {name.rpartition(".")[2] for name in files} <= {"json", "jinja", "safetensors", "txt", "model"}
    assert not [path for _, path, _ in hub.asked if path.endswith(unwanted)]
    hub.asked.clear()
    assert fetch(hub) == WHOLE
    assert fetch(hub, HF_HUB_OFFLINE="1") == WHOLE
    assert hub.asked == []


@pytest.mark.slow
def test_code_is_fetched_where_the_operator_allows_it_and_a_copy_without_it_is_not_whole_then(
    hub: Hub,
) -> None:
    (hub.folder / "own.py").write_text("# code")
    assert fetch(hub) == WHOLE
    assert "own.py" not in local(hub)
    table = {REPOSITORY: {"revision": COMMIT, "allow_code": True}}
    assert fetch(hub, MLX_SERVER_MODELS=json.dumps(table)) == WHOLE
    assert local(hub)["own.py"] == b"# code"


@pytest.mark.slow
def test_files_of_the_same_content_are_fetched_once(hub: Hub) -> None:
    for folder in ("1_One", "2_Two"):
        (hub.folder / folder).mkdir()
        shutil.copy(hub.weights, hub.folder / folder)
    hub.rate = hub.weights.stat().st_size
    assert fetch(hub) == WHOLE
    assert len(hub.fetched()) == 1
    found = [content for name, content in local(hub).items() if name.endswith(hub.weights.name)]
    assert found == [hub.weights.read_bytes()] * 3


@pytest.mark.slow
@pytest.mark.parametrize("etag", ["..", "../../outside", "/tmp/outside", ".hidden"])
def test_an_etag_that_is_no_name_for_a_file_is_refused(hub: Hub, etag: str) -> None:
    hub.etag = etag
    assert "no usable etag for model.safetensors" in (fetch(hub).reason or "")


def test_what_a_killed_process_had_is_not_fetched_again_and_not_served(hub: Hub) -> None:
    size = hub.weights.stat().st_size
    hub.stall_after = size // 2
    child = start(hub, MLX_SERVER_DOWNLOAD_SILENCE="30")
    wait_for(lambda: hub.partial() == size // 2)
    child.kill()
    child.communicate()
    assert snapshots(hub) == []
    hub.stall_after = None
    assert fetch(hub) == WHOLE
    assert hub.fetched() == [None, f"bytes={size // 2}-"]
    assert local(hub)["model.safetensors"] == hub.weights.read_bytes()


def test_a_disk_without_room_is_said_before_the_first_byte(hub: Hub) -> None:
    said = fetch(hub, MLX_SERVER_DOWNLOAD_DISK_FLOOR_GB="1000000")
    assert "of which 1000000.0 GB stay free" in said.reason
    assert hub.fetched() == []


@pytest.fixture
def small_disk(hub: Hub) -> Iterator[Path]:
    """Of 4 MB, for the hub's copy."""
    hub.home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(hub.home)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield hub.home
    subprocess.run(["umount", "--lazy", str(hub.home)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(("floor", "left"), [("0.001", 500_000), ("0", 0)])
def test_a_disk_that_fills_up_ends_the_download_and_what_came_is_kept(
    hub: Hub, small_disk: Path, floor: str, left: int
) -> None:
    filler = small_disk / "filler"

    def fill(sent: int) -> None:
        hub.on_bytes = lambda sent: time.sleep(0.6)  # longer than between two looks at the disk
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while shutil.disk_usage(small_disk).free > left:
                file.write(bytes(4096))

    hub.on_bytes = fill
    said = fetch(hub, MLX_SERVER_DOWNLOAD_DISK_FLOOR_GB=floor, MLX_SERVER_DOWNLOAD_SILENCE="10")
    assert "stay free" in said.reason or "No space left" in said.reason
    assert not said.permanent
    assert snapshots(hub) == []
    filler.unlink()
    hub.on_bytes = lambda sent: None
    assert fetch(hub, MLX_SERVER_DOWNLOAD_DISK_FLOOR_GB="0") == WHOLE


@pytest.mark.slow
def test_a_private_repository_needs_a_token_which_is_said_nowhere(hub: Hub) -> None:
    hub.private = True
    said = fetch(hub)
    assert "private" in said.reason and "HF_TOKEN" in said.reason
    assert said.permanent
    assert fetch(hub, HF_TOKEN=SECRET) == WHOLE


@pytest.mark.slow
def test_two_processes_fetch_a_model_once(hub: Hub) -> None:
    hub.rate = hub.weights.stat().st_size / 5  # seconds, so that both are there
    children = [start(hub), start(hub)]
    assert [reports(child)[-1] for child in children] == [WHOLE, WHOLE]
    assert hub.sent == hub.weights.stat().st_size


@pytest.mark.slow
def test_a_child_whose_reader_has_gone_ends_by_itself(hub: Hub) -> None:
    hub.stall_after = 1000
    child = start(hub, MLX_SERVER_DOWNLOAD_SILENCE="60")
    wait_for(lambda: hub.partial() == 1000)
    assert child.stdout and child.stderr
    child.stdout.close()
    child.wait(40)
    child.stderr.close()


@pytest.mark.slow
def test_the_revision_an_operator_names_is_the_one_that_is_asked_for(hub: Hub) -> None:
    tables = json.dumps({REPOSITORY: {"revision": "v2"}})
    assert fetch(hub, MLX_SERVER_MODELS=tables) == WHOLE
    assert any("/revision/v2" in path for _, path, _ in hub.asked)
    tables = json.dumps({REPOSITORY: {"revision": "none"}})
    said = fetch(hub, MLX_SERVER_MODELS=tables)
    assert "does not have the revision" in said.reason
    assert said.permanent


@pytest.mark.slow
def test_a_repository_that_is_no_model_is_refused_for_good(hub: Hub) -> None:
    (hub.folder / "config.json").unlink()
    said = fetch(hub)
    assert "is no model that can be served" in said.reason
    assert said.permanent


@pytest.mark.slow
def test_a_copy_that_lost_a_file_is_completed(hub: Hub) -> None:
    assert fetch(hub) == WHOLE
    (weights,) = hub.home.glob("**/snapshots/*/model.safetensors")
    weights.unlink()
    assert fetch(hub) == WHOLE
    assert local(hub)["model.safetensors"] == hub.weights.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "environment", "words", "permanent"),
    [
        ("org/nonesuch", {}, "does not exist, or is private", True),
        ("org/gated", {}, "accept its terms", True),
        ("org/broken", {}, "hub cannot be reached", False),
        ("org/tiny", {"HF_HUB_OFFLINE": "1"}, "hf download org/tiny", False),
        ("org/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "hub cannot be reached", False),
        ("org/huge", {}, "has 10000000.0 GB to fetch", False),
    ],
)
def test_a_download_that_fails_tells_the_operator_what_to_do(
    hub: Hub, model: str, environment: dict[str, str], words: str, permanent: bool
) -> None:
    said = fetch(hub, model, **environment)
    assert words in said.reason
    assert said.permanent is permanent
