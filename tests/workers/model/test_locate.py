"""Locating models: folders, the local copy of the hub, and downloads from a hub on this machine."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared.models import ModelSource
from tests.workers.model.folders import ROOT, silent
from workers.model.load import locate


def test_a_folder_source_is_located_at_its_path(folder: Path, tmp_path: Path) -> None:
    assert locate(ModelSource("m", "folder", str(folder)), tmp_path, silent) == folder


COMMIT = "c" * 40
LOCATE = """
import json, pathlib, sys
from shared.models import ModelSource
from workers.model.load import LoadError, inspect, locate
phases = set()
try:
    source = ModelSource("m", "hub", sys.argv[1], sys.argv[2] or None)
    folder = locate(source, pathlib.Path("."), lambda phase, done, total: phases.add((phase, done, total)))
    inspect(folder)
    print(json.dumps({"files": sorted(file.name for file in folder.iterdir()), "phases": sorted(phases)}))
except LoadError as error:
    print(json.dumps({"reason": error.reason, "permanent": error.permanent}))
"""


class Hub:
    """Just enough of huggingface.co, on this machine: one model, and the ways it can refuse."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.asked: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._answers())

    def locate(self, repository: str, revision: str = "", **environment: str) -> dict[str, Any]:
        endpoint = f"http://127.0.0.1:{self.server.server_port}"
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(self.home), "HF_HUB_DISABLE_XET": "1"}
        program = [sys.executable, "-c", LOCATE, repository, revision]
        no_proxy = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        done = subprocess.run(
            program,
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | no_proxy | settings | environment,
        )
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def _answers(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 (the name http.server looks for)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Answers

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        match path.split("?")[0].strip("/").split("/"):
            case ["api", "models", "org", "tiny", "revision", "none"]:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b""
            case ["api", "models", "org", "tiny", "revision", _]:
                return 200, {}, json.dumps({"id": "org/tiny", "sha": COMMIT}).encode()
            case ["api", "models", "org", "tiny", "tree", _]:
                return 200, {}, json.dumps([self._entry(file) for file in self.folder.iterdir()]).encode()
            case ["org", "tiny", "resolve", _, name]:
                body = (self.folder / name).read_bytes()
                return 200, {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT}, body
            case ["api", "models", "org", "gated", *_]:
                return 403, {"X-Error-Code": "GatedRepo"}, b""
            case ["api", "models", "org", "huge", "tree", _]:
                huge = {"type": "file", "path": "model.safetensors", "size": 10**16, "oid": "x"}
                return 200, {}, json.dumps([huge]).encode()
            case ["api", "models", "org", "broken", *_]:
                return 500, {}, b""
            case _:
                return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def _entry(self, file: Path) -> dict[str, object]:
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}


@pytest.fixture
def hub(folder: Path, tmp_path: Path) -> Iterator[Hub]:
    hub = Hub(folder, tmp_path / "home")
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    hub.server.shutdown()
    hub.server.server_close()
    thread.join()


def test_a_hub_model_is_downloaded_once_and_then_served_offline(hub: Hub, folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit")
    (folder / "consolidated.safetensors").write_bytes(bytes(10))
    first = hub.locate("org/tiny")
    assert "model.safetensors" in first["files"]
    assert not {"evil.py", "consolidated.safetensors"} & set(first["files"])
    assert first["phases"][-1][0] == "download"
    assert first["phases"][-1][1] == first["phases"][-1][2] > 100_000
    hub.asked.clear()
    assert hub.locate("org/tiny", HF_HUB_OFFLINE="1") == first | {"phases": []}
    assert hub.locate("org/tiny") == first | {"phases": []}
    assert hub.asked == []


def test_the_revision_an_operator_names_is_the_one_that_is_asked_for(hub: Hub) -> None:
    assert "model.safetensors" in hub.locate("org/tiny", "v2")["files"]
    assert any(path.startswith("/api/models/org/tiny/revision/v2") for path in hub.asked)
    hub.asked.clear()
    assert "model.safetensors" in hub.locate("org/tiny", "v2")["files"]
    assert hub.asked == []
    told = hub.locate("org/tiny", "none")
    assert "does not have the revision" in told["reason"]
    assert told["permanent"]


def test_a_download_that_lost_a_file_is_completed(hub: Hub) -> None:
    first = hub.locate("org/tiny")
    (weights,) = hub.home.glob("**/snapshots/*/model.safetensors")
    weights.unlink()
    assert hub.locate("org/tiny")["files"] == first["files"]


@pytest.mark.parametrize(
    ("repository", "environment", "words", "permanent"),
    [
        ("org/nonesuch", {}, "does not exist, or is private", True),
        ("org/gated", {}, "accept its terms", True),
        ("org/broken", {}, "hub cannot be reached", False),
        ("org/tiny", {"HF_HUB_OFFLINE": "1"}, "hf download org/tiny", False),
        ("org/tiny", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "hub cannot be reached", False),
        ("org/huge", {}, "has 10000000.0 GB to fetch", False),
        ("not a name", {}, "not the name of a hub repository", True),
    ],
)
def test_a_download_that_fails_tells_the_operator_what_to_do(
    hub: Hub, repository: str, environment: dict[str, str], words: str, permanent: bool
) -> None:
    answer = hub.locate(repository, **environment)
    assert words in answer["reason"]
    assert answer["permanent"] is permanent
