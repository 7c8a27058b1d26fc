"""Wrong model names are refused before anything starts."""

from pathlib import Path

import pytest

from cli.models.wrong import wrong_models
from shared.settings import Settings
from tests.cli.command import call


def wrong(entry: str) -> str:
    return " ".join(wrong_models(Settings(available_models=(entry,))))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("mine=/no/such/folder", "there is no folder /no/such/folder"),
        ("llama3.2:3b", "ORGANIZATION/NAME"),
        ("https://huggingface.co/org/name", "name the model, not its address: org/name"),
        ("org/name.gguf", "GGUF"),
        ("smollm2-135m", "the embedded model is called smollm2-135m-instruct"),
    ],
)
def test_a_model_name_that_cannot_be_loaded_is_refused_with_the_right_form(entry: str, said: str) -> None:
    if "://" in entry:
        entry = entry.removeprefix("https://")
    assert said in wrong(entry)


def test_a_folder_without_config_json_is_refused_as_a_model(tmp_path: Path) -> None:
    assert "no config.json" in wrong(f"mine={tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    assert not wrong(f"mine={tmp_path}")


def test_a_hub_name_and_the_embedded_one_are_not_looked_at_further() -> None:
    assert not wrong("org/name")
    assert not wrong("smollm2-135m-instruct")


def test_serve_refuses_wrong_model_names_before_it_starts_anything(tmp_path: Path) -> None:
    done = call("serve", "--models", "mine=/no/such/folder", "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "mine: there is no folder /no/such/folder" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7"])
def test_serve_listens_beyond_this_machine_only_with_allow_anyone(host: str, tmp_path: Path) -> None:
    done = call("serve", "--host", host, "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "--allow-anyone" in done.stderr


@pytest.mark.parametrize(
    ("word", "said"), [("download", "pull MODEL"), ("start", "serve"), ("--model", "serve --model")]
)
def test_a_command_of_another_server_is_answered_with_the_right_command(word: str, said: str) -> None:
    done = call(word, "x")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
