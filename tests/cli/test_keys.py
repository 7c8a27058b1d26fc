"""``mlx-server keys``."""

import json
from pathlib import Path

import pytest

from shared.api_keys import KeyFile
from tests.cli.command import call


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def keys(path: Path, *arguments: str, **more: str) -> tuple[int, str, str]:
    done = call("keys", *arguments, MLX_SERVER_KEYS_FILE=str(path), **more)
    return done.returncode, done.stdout, done.stderr


def test_create_prints_the_key_alone_and_list_and_revoke_know_its_name(path: Path) -> None:
    code, key, said = keys(path, "create", "anna", "--models", "smollm2*, b", "--expires", "30d")
    assert (code, key.startswith("sk-mlx-"), key.count("\n")) == (0, True, 1)
    assert "not shown again" in said
    [listed] = json.loads(keys(path, "list", "--json")[1])
    assert (listed["name"], listed["models"], listed["admin"]) == ("anna", ["smollm2*", "b"], False)
    assert "digest" not in listed
    assert "anna" in keys(path, "list")[1]
    assert keys(path, "revoke", "anna")[0] == 0
    assert KeyFile(path).read() == []


def test_the_limits_of_a_key_are_kept_and_listed(path: Path) -> None:
    limits = ("--priority", "low", "--concurrency", "4", "--tokens-per-minute", "9000")
    assert keys(path, "create", "batch", *limits)[0] == 0
    [made] = KeyFile(path).read()
    assert (made.priority, made.concurrency, made.tokens_per_minute) == ("low", 4, 9000)
    [listed] = json.loads(keys(path, "list", "--json")[1])
    assert (listed["priority"], listed["concurrency"], listed["usage"]) == ("low", 4, None)
    assert "low priority, 4 at a time, 9000 tokens/min" in keys(path, "list", COLUMNS="200")[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "a b"), "1 to 64 letters"),
        (("create", "a", "--expires", "soon"), "12h, 30d or 8w"),
        (("create", "a", "--priority", "urgent"), "high, normal, low"),
        (("revoke", "a"), "no key 'a'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(path: Path, arguments: tuple[str, ...], said: str) -> None:
    code, out, error = keys(path, *arguments)
    assert (code, out) == (1, "")
    assert said in error
    assert error.count("\n") == 1


def test_a_key_for_models_that_are_not_here_is_made_with_a_warning(path: Path) -> None:
    code, _, said = keys(path, "create", "a", "--models", "nowhere")
    assert code == 0
    assert "none of the models configured here" in said


def test_a_short_key_in_the_environment_is_refused_and_not_quoted(path: Path) -> None:
    code, _, said = keys(path, "list", MLX_SERVER_API_KEYS="name=hunter2")
    assert code == 2
    assert "MLX_SERVER_API_KEYS" in said
    assert "hunter2" not in said


def test_serve_does_not_start_with_keys_that_it_cannot_read(path: Path, tmp_path: Path) -> None:
    path.write_text("no")
    done = call("serve", "--run-dir", str(tmp_path / "run"), MLX_SERVER_KEYS_FILE=str(path))
    assert done.returncode == 2
    assert str(path) in done.stderr
