"""What an operator may write into available_models."""

from pathlib import Path

import pytest

from shared.models import EMBEDDED_MODEL, ModelSource, parse_source


def test_a_plain_id_is_a_repository_of_the_hub() -> None:
    assert parse_source("mlx-community/Llama-3.2-3B-Instruct-4bit") == ModelSource(
        "mlx-community/Llama-3.2-3B-Instruct-4bit", "hub", "mlx-community/Llama-3.2-3B-Instruct-4bit"
    )


def test_the_embedded_model_has_no_location() -> None:
    assert parse_source(EMBEDDED_MODEL) == ModelSource(EMBEDDED_MODEL, "embedded", "")


def test_a_name_may_be_given_to_a_folder(tmp_path: Path) -> None:
    assert parse_source(f"mine={tmp_path}") == ModelSource("mine", "folder", str(tmp_path))


def test_the_embedded_models_name_may_be_given_to_a_folder(tmp_path: Path) -> None:
    assert parse_source(f"{EMBEDDED_MODEL}={tmp_path}").kind == "folder"


def test_a_folder_without_a_name_is_named_after_itself(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen3-4B"
    assert parse_source(str(folder)) == ModelSource("Qwen3-4B", "folder", str(folder))


def test_folders_may_be_relative_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert parse_source("./tiny").location == str(tmp_path / "tiny")
    assert parse_source("m=tiny").location == str(tmp_path / "tiny")
    assert parse_source("~/tiny").location == "/home/somebody/tiny"


def test_space_around_an_entry_is_ignored() -> None:
    assert parse_source("  org/name ").id == "org/name"


@pytest.mark.parametrize(
    "entry", ["", " ", "=", "=/models/a", "a b", "-a", "/", "a\nb", "a" * 201, "ä", "a;rm"]
)
def test_a_name_that_is_no_model_id_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a model id"):
        parse_source(entry)


def test_a_name_for_no_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="names no folder"):
        parse_source("mine=")
