"""What is known of a model before it is loaded: the bytes of its weights in memory, or why it can never be loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.models import ModelSource
from shared.protocol import Inspection
from tests.tiny_model import Kind, make_tiny_model
from tests.workers.model.folders import ROOT, edit_json
from tests.workers.model.test_load import pack
from workers.model.inspection import Tensor, inspected, weights_in_memory
from workers.model.load import inspect, load


def found(folder: Path) -> Inspection:
    return inspected(ModelSource("m", "folder", str(folder)), folder / "none")


def loaded_bytes(folder: Path) -> int:
    totals: list[int] = []
    load(folder, inspect(folder), lambda phase, done, total: totals.append(total), trusted=True)
    return max(totals)


@pytest.mark.parametrize("kind", ["llama", "sliding", "recurrent", "experts"])
def test_the_bytes_of_the_weights_are_those_that_a_load_reads(tmp_path: Path, kind: Kind) -> None:
    folder = make_tiny_model(tmp_path, kind)
    assert found(folder).weights == loaded_bytes(folder)


def test_quantized_weights_count_as_what_they_become(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    pack(folder)
    assert found(folder).weights == loaded_bytes(folder)


@pytest.mark.parametrize("said", [True, [None], "4", 4])
def test_a_quantization_that_is_no_object_says_nothing_of_the_weights(said: object) -> None:
    tensors = {
        "a.weight": Tensor("a.weight", "U32", 8, 32),
        "a.scales": Tensor("a.scales", "F16", 1, 2),
    }
    assert weights_in_memory(tensors, {"quantization": said}, accelerator=False) == 8 * 8 * 4  # as of 4 bits


def test_a_folder_that_cannot_be_loaded_says_why_and_names_no_path(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    edit_json(folder / "config.json", model_file="evil.py")
    said = found(folder)
    assert said.permanent
    assert said.weights == 0
    assert said.reason and str(tmp_path) not in said.reason


def test_a_cut_weight_file_is_found_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "not a whole safetensors file" in found(folder).reason


def test_what_is_not_on_this_disk_is_no_failure_and_of_the_hub_it_is_absent(tmp_path: Path) -> None:
    hub, embedded = ModelSource("m", "hub", "nobody/nothing-here"), ModelSource("m", "embedded", "")
    assert inspected(hub, tmp_path) == Inspection(absent=True)
    assert inspected(embedded, tmp_path) == Inspection()


@pytest.mark.slow
def test_the_worker_program_prints_one_inspection_and_nothing_else(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-m", "workers", "--model", "m", "--inspect"],
        env={"MLX_SERVER_AVAILABLE_MODELS": f"m={folder}", "PATH": "/usr/bin", "HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Inspection.model_validate_json(done.stdout).weights == loaded_bytes(folder)
