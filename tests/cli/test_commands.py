"""What holds for all commands: they are documented, they complete, and a mistyped one gets the right one named."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from cli.__main__ import app
from tests.cli.command import ROOT, call, run

GUIDE = (ROOT / "docs" / "cli.md").read_text()


def commands(group: Any, name: str = "mlx-server") -> Iterator[str]:
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}"


NAMES = list(commands(get_command(app)))


@pytest.mark.parametrize("name", NAMES)
def test_each_command_is_in_the_guide(name: str) -> None:
    assert f"`{name}`" in GUIDE


def test_the_guide_names_no_command_that_does_not_exist() -> None:
    rows = re.findall(r"^\| `(mlx-server [^`]+)`", GUIDE, re.MULTILINE)
    assert rows
    assert not set(rows) - set(NAMES)


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    for typed, meant in (("satus", "status"), ("laod", "load"), ("benhc", "bench")):
        done = call(typed)
        assert done.returncode == 2
        assert f"Did you mean '{meant}'" in done.stderr
    nested = call("config", "chekc")
    assert (nested.returncode, "Did you mean 'check'?" in nested.stderr) == (2, True)


def test_an_option_before_its_command_is_said_to_be_misplaced() -> None:
    done = call("--port", "9000")
    assert done.returncode == 2
    assert "serve --port 9000" in " ".join(done.stderr.split())


def test_commands_and_programs_are_completed_by_the_shell() -> None:
    def completed(words: str, at: int) -> list[str]:
        asked = {"_MLX_SERVER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        return run(**asked).stdout.split()

    assert completed("mlx-server ser", 1) == ["serve", "service"]
    assert completed("mlx-server config ", 2) == ["show", "check", "init"]
    assert completed("mlx-server launch c", 2) == ["codex", "claude"]
