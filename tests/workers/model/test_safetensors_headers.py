"""Safetensors headers: every damaged one is refused before MLX reads it."""

import os
import random
import struct
from pathlib import Path

import pytest

from tests.workers.model.folders import refusal, safetensors
from workers.model.load_error import LoadError
from workers.model.safetensors_headers import check_header, read_header

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x05", id="shorter than a header length"),
        pytest.param(b"\xff" * 64, id="huge header"),
        pytest.param(struct.pack("<Q", 200_000_000), id="header over the cap"),
        pytest.param(safetensors(b"{]"), id="header not json"),
        pytest.param(safetensors(b"\xff\xfe{}"), id="header not text"),
        pytest.param(safetensors(b"[" * 100_000), id="header nested too deep"),
        pytest.param(safetensors([]), id="header not an object"),
        pytest.param(safetensors({"a": F32}, bytes(7)), id="data truncated"),
        pytest.param(safetensors({"a": F32}, bytes(9)), id="data left over"),
        pytest.param(safetensors({"a": F32 | {"data_offsets": [8, 16]}}, bytes(16)), id="hole"),
        pytest.param(safetensors({"a": F32, "b": F32}, bytes(8)), id="overlap"),
        pytest.param(safetensors({"a": F32 | {"data_offsets": [8, 0]}}, bytes(8)), id="backwards"),
        pytest.param(safetensors({"a": F32 | {"data_offsets": [-8, 0]}}, bytes(8)), id="negative offset"),
        pytest.param(safetensors({"a": F32 | {"shape": [3]}}, bytes(8)), id="shape too large"),
        pytest.param(safetensors({"a": F32 | {"shape": [-1, -2]}}, bytes(8)), id="negative shape"),
        pytest.param(safetensors({"a": F32 | {"shape": [2.0]}}, bytes(8)), id="shape not whole"),
        pytest.param(safetensors({"a": F32 | {"shape": "2"}}, bytes(8)), id="shape not a list"),
        pytest.param(safetensors({"a": F32 | {"dtype": "F31"}}, bytes(8)), id="unknown dtype"),
        pytest.param(safetensors({"a": F32 | {"dtype": []}}, bytes(8)), id="dtype not text"),
        pytest.param(safetensors({"a": 3}, bytes(8)), id="tensor not an object"),
        pytest.param(safetensors({"a": F32 | {"shape": [1] * 8 + [2]}}, bytes(8)), id="nine dimensions"),
        pytest.param(safetensors({"a": F32 | {"shape": [0, 1 << 40]}}), id="a dimension of a trillion"),
        pytest.param(safetensors({"a": F32 | {"shape": [10**3999] * 3000}}), id="numbers of 4000 digits"),
        pytest.param(
            safetensors({f"t{i}": F32 | {"shape": [0], "data_offsets": [0, 0]} for i in range(100_001)}),
            id="100,001 tensors",
        ),
    ],
)
def test_a_garbled_weight_file_is_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert "not a whole safetensors file" in refusal(folder)


def test_a_weight_file_cut_short_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    assert "not a whole safetensors file" in refusal(folder)


def test_a_weight_file_that_is_a_pipe_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert "regular file" in refusal(folder)


def test_a_mutated_header_is_refused_or_still_describes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    whole = safetensors({"a": F32, "b": F32 | {"data_offsets": [8, 16]}}, bytes(16))
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(1000):
        mutated = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            mutated[dice.randrange(len(whole) - 16)] = dice.randrange(256)
        file.write_bytes(mutated)
        try:
            spans = check_header(file, read_header(file))
        except LoadError:
            continue
        assert sum(stop - start for start, stop, _ in spans) == 16
