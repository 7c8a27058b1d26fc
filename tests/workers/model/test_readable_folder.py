"""Folders that mlx-lm and transformers cannot read as they are: names that are patterns, JSON as Windows writes it."""

from pathlib import Path

import pytest

from tests.workers.model.folders import silent
from workers.model.load import inspect, load
from workers.model.readable_folder import readable

JSON = ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"]


def test_an_ordinary_folder_is_read_in_its_place(folder: Path) -> None:
    with readable(folder) as view:
        assert view == folder


@pytest.mark.parametrize("name", ["Qwen3 [4bit]", "a*b", "what?", "[!x]"])
def test_a_model_loads_from_a_folder_whose_name_is_a_pattern(folder: Path, name: str) -> None:
    folder = folder.rename(folder.parent / name)
    loaded = load(folder, inspect(folder), silent, trusted=True)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("the réin 日")) == "the réin 日"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_a_model_loads_whose_json_has_a_byte_order_mark_or_is_utf_16(folder: Path, encoding: str) -> None:
    for name in JSON:
        (folder / name).write_bytes((folder / name).read_text(encoding="utf-8").encode(encoding))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    loaded = load(folder, inspect(folder), silent, trusted=True)
    assert (loaded.context_length, loaded.tokenizer.eos_token_ids) == (512, {2})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("content", [b"[]", b"{", b"", b"\xff", b"null"])
def test_a_generation_config_that_is_no_json_object_is_taken_for_absent(folder: Path, content: bytes) -> None:
    (folder / "generation_config.json").write_bytes(content)
    assert load(folder, inspect(folder), silent, trusted=True).tokenizer.eos_token_ids == {2}


def test_what_was_made_for_the_libraries_is_gone_when_they_have_read_it(folder: Path) -> None:
    folder = folder.rename(folder.parent / "a[b]")
    with readable(folder) as view:
        assert view.name == "a_b_"
        assert sorted(file.name for file in view.iterdir()) == sorted(file.name for file in folder.iterdir())
        assert (view / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert not view.parent.exists()
    assert (folder / "model.safetensors").is_file()
