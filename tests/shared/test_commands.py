"""Commands in messages can be typed where the reader stands."""

from pathlib import Path

import pytest

from shared.commands import typed


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of an environment that also has the command ``hf``."""
    folder = tmp_path / "checkout" / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "hf").touch(0o755)
    return folder / "python"


def test_a_command_that_is_not_on_the_path_is_named_by_its_path(python: Path, tmp_path: Path) -> None:
    assert typed("hf", str(python), path="", folder=tmp_path / "checkout") == ".venv/bin/hf"
    assert typed("hf", str(python), path="", folder=tmp_path / "elsewhere") == str(python.parent / "hf")


def test_a_command_on_the_path_is_named_by_its_name(python: Path, tmp_path: Path) -> None:
    assert typed("hf", str(python), path=str(python.parent), folder=tmp_path) == "hf"


def test_a_command_that_the_path_has_as_a_link_is_named_by_its_name(python: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").symlink_to(python.parent / "hf")  # as pipx and uv do
    assert typed("hf", str(python), path=str(tmp_path), folder=tmp_path) == "hf"


def test_a_command_of_another_installation_on_the_path_is_not_taken_for_ours(
    python: Path, tmp_path: Path
) -> None:
    (tmp_path / "hf").touch(0o755)
    assert typed("hf", str(python), path=str(tmp_path), folder=tmp_path / "checkout") == ".venv/bin/hf"


def test_a_command_that_is_not_installed_keeps_its_name(python: Path, tmp_path: Path) -> None:
    assert typed("uv", str(python), path="", folder=tmp_path) == "uv"
