"""``mlx-server bench --self``: what its report says and keeps to itself, and one whole run on this machine."""

import json
import platform
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

from cli.bench.figures import Answered, level
from cli.bench.self_check import NAME
from cli.bench.self_report import OURS, THEIRS, MeasuredServer, Report, Stall, markdown, public_name
from shared.models import EMBEDDED_MODEL, ModelSource
from tests.cli.command import call, environment

ENGINE: dict[str, Any] = {
    "folder": "/Users/somebody/models/secret",
    "model_type": "llama",
    "weight_bytes": 5 * 10**8,
    "accelerator": True,
    "batch_invariance": "rounding",
    "parity": {
        "batched": {"requests": 4, "equal": 3, "tokens": 32, "difference": 0.015},
        "cached": {"requests": 4, "equal": 4, "tokens": 32, "difference": 0.0},
        "cached_tokens": 228,
    },
    "decode": [
        {"rows": 1, "engine": 100.0, "bare": 110.0, "idle_share": 0.07},
        {"rows": 8, "engine": 400.0, "bare": None, "idle_share": None},
    ],
    "mlx_peak_bytes": 10**9,
    "pass_memory": {"rows": 8, "kv": 2 * 10**8, "beside": 10**7},
    "resident_peak_bytes": 2 * 10**9,
}


def report(**more: Any) -> Report:
    measured = level(8, [Answered(0.0, [0.5, 0.6], 0.6, 2, 7)], seconds=1.0)
    ours = MeasuredServer(OURS, [measured], Stall(4, 2000, 0.02, 0.21, 1.5))
    given: dict[str, Any] = {
        "machine": {"system": "Darwin 25.1", "processor": "Apple M3", "cores": 8},
        "versions": {"mlx": "0.32.4"},
        "model": EMBEDDED_MODEL,
        "quick": False,
        "engine": ENGINE,
        "servers": [ours, MeasuredServer(THEIRS, failed="too slow")],
    }
    return Report(**{**given, **more})


def test_the_report_shows_parity_speed_idle_share_memory_and_both_servers() -> None:
    said = markdown(report())
    for line in (
        "| batched | 3 of 4 | 0.015 |",
        "| from the prefix cache (228 tokens) | 4 of 4 | 0 |",
        "| 1 | 100 | 110 | 7% |",
        "| 8 | 400 | – | – |",
        "MLX at most 1.00 GB",
        "Keys and values of 8 sequences: 0.200 GB; passes took 0.010 GB beside",
        "| mlx-server | 4 | 2000 | 0.020 | 0.21 | 1.50 |",
        "| mlx_lm.server | – | – | – | – | – | – | too slow |",
        "| processor | Apple M3 |",
    ):
        assert line in said
    assert "quick" not in said and "quick" in markdown(report(quick=True))


def test_the_report_has_no_path_of_the_model() -> None:
    whole = json.dumps(report().json()) + markdown(report())
    assert "somebody" not in whole and "folder" not in whole


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (ModelSource(EMBEDDED_MODEL, "embedded", ""), EMBEDDED_MODEL),
        (ModelSource("secret-project", "folder", "/Users/somebody/tuned"), "a model in a folder"),
        (ModelSource("my-alias", "hub", "mlx-community/Qwen3"), "mlx-community/Qwen3"),
    ],
)
def test_only_public_names_of_models_are_told(source: ModelSource, name: str) -> None:
    assert public_name(source) == name


@pytest.mark.slow
def test_a_model_that_cannot_be_had_ends_it_with_one_line(tmp_path: Path) -> None:
    said = call("bench", "--self", "--quick", "--model", f"x={tmp_path}/none", "--output", str(tmp_path))
    assert said.returncode == 1 and said.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_what_is_no_model_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    said = call("bench", "--self", "--model", "no model!", "--output", str(tmp_path))
    assert said.returncode == 1 and "--model" in said.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_quick_run_writes_two_files_in_which_nothing_is_private(tmp_path: Path) -> None:
    said = call("bench", "--self", "--quick", "--output", str(tmp_path))
    assert said.returncode == 0, said.stderr
    found = json.loads((tmp_path / f"{NAME}.json").read_text())
    parity = found["engine"]["parity"]
    assert parity["cached_tokens"] > 0
    assert found["engine"]["pass_memory"]["kv"] > found["engine"]["pass_memory"]["beside"]
    if found["engine"]["batch_invariance"] == "exact":
        assert [parity[way]["equal"] for way in ("batched", "cached")] == [4, 4]
    ours, _ = found["servers"]
    assert not ours["failed"] and all(each["failed"] == 0 and each["tokens"] for each in ours["levels"])
    assert ours["stall"]["gap_max_after"] > 0
    whole = (tmp_path / f"{NAME}.md").read_text() + json.dumps(found)
    private = (platform.node(), str(Path.home()), str(tmp_path), environment().get("USER") or getuser())
    assert not [each for each in private if len(each) > 4 and each in whole]
