"""The command line: what it accepts and how quickly it answers."""

import resource

import pytest

from tests.cli.command import run


def processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["status", "--help"]], ids=" ".join)
def test_help_is_printed_quickly(arguments: list[str]) -> None:
    before = processor_time()
    done = run(*arguments)
    assert done.returncode == 0
    assert "Usage: " in done.stdout
    assert processor_time() - before < 2


def test_the_help_names_serve_and_status() -> None:
    assert {"serve", "status"} <= set(run("--help").stdout.split())


def test_the_version_is_printed_on_one_line() -> None:
    assert len(run("--version").stdout.splitlines()) == 1


@pytest.mark.parametrize("command", ["serve", "status"])
def test_a_bad_setting_is_named_within_seconds(command: str) -> None:
    before = processor_time()
    done = run(command, MLX_SERVER_PORT="http")
    assert done.returncode == 2
    assert "MLX_SERVER_PORT: " in done.stderr
    assert processor_time() - before < 3


def test_a_bad_option_is_reported_as_its_setting() -> None:
    done = run("serve", "--port", "99999", "--models", "a b")
    assert done.returncode == 2
    assert "MLX_SERVER_PORT: " in done.stderr
    assert "MLX_SERVER_AVAILABLE_MODELS: " in done.stderr
