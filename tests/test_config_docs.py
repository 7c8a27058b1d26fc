"""What docs/operators.md says of mlx-server.toml is what the classes do."""

import re
from pathlib import Path

import pytest

from shared.settings import load_settings
from tests.config_table import GUIDE, config_table, sections


def test_the_operators_guide_has_the_table_of_keys_as_the_classes_have_them() -> None:
    assert sections()[1] == config_table(), "python -m tests.config_table writes it anew"


def test_the_example_of_the_operators_guide_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```toml\n(# mlx-server.toml\n.*?)```", GUIDE.read_text(), re.DOTALL)
    assert example
    path = tmp_path / "mine.toml"
    path.write_text(example[1])
    settings = load_settings(config=str(path))
    assert settings.registry.resolve("claude-haiku-4-5") == "small"
    assert settings.registry.resolve("claude-opus-4-1") == "coder"
