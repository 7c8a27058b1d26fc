"""Locating models: folders, and the local copy of the hub, which is not fetched here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared.models import ModelSource
from tests.hub import hub_of, without_a_hub
from tests.workers.model.folders import ROOT, silent
from workers.model.load import locate

LOCATE = """
import pathlib, sys
from shared.models import ModelSource
from workers.model.load import LoadError, locate
try:
    print(locate(ModelSource("m", "hub", "org/tiny"), pathlib.Path("."), lambda phase, done, total: None))
except LoadError as error:
    print(type(error).__name__, error.reason)
"""


def test_a_folder_source_is_located_at_its_path(folder: Path, tmp_path: Path) -> None:
    assert locate(ModelSource("m", "folder", str(folder)), tmp_path, silent) == folder


@pytest.mark.slow
def test_a_worker_fetches_nothing_and_says_that_the_model_is_absent(folder: Path, tmp_path: Path) -> None:
    with hub_of(folder, tmp_path / "home") as hub:
        done = subprocess.run(
            [sys.executable, "-c", LOCATE],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=without_a_hub(hub.environment),
        )
        assert done.stdout.startswith("AbsentError org/tiny is not whole on this disk"), done.stderr
        assert "pull` with the model's name fetches it" in done.stdout
        assert hub.asked == []
        assert json.loads((folder / "config.json").read_text())
