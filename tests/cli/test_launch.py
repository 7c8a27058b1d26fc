"""``mlx-server launch``: what a program is told, and what is said before it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.launch.programs import PROGRAMS, Target
from cli.launch.start import objections
from tests.cli.answering import answering
from tests.cli.command import call, run
from tests.marks import quick_and_slow
from tests.ports import free_port

CAN = {"kind": "chat", "tools": "native"}
CODER = {"id": "coder", "status": "hot", "capabilities": CAN, "context_length": 65536, "reason": None}
NAMES = tuple(PROGRAMS)
SECRET = "sk-quite-secret"


def served(**changes: Any) -> dict[str, Any]:
    """A model, and the list of models with it, in one answer."""
    return {**CODER, **changes, "data": [{**CODER, **changes}]}


@pytest.fixture
def installed(tmp_path: Path) -> str:
    """A PATH with programs of all names, which print their flags and variables."""
    for program in PROGRAMS.values():
        path = tmp_path / program.command
        path.write_text(
            f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([sys.argv[1:], {{**os.environ}}]))\n"
        )
        path.chmod(0o700)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("name", NAMES)
def test_a_key_is_told_by_a_variable_and_never_by_a_flag(name: str) -> None:
    told = PROGRAMS[name].tell(Target("http://127.0.0.1:1", "coder", 65536, SECRET))
    assert told.variables[told.secret] == SECRET
    others = [value for variable, value in told.variables.items() if variable != told.secret]
    assert not any(SECRET in word for word in (*told.flags, *others))


@pytest.mark.parametrize("name", NAMES)
def test_each_program_is_told_the_address_and_the_model(name: str) -> None:
    told = PROGRAMS[name].tell(Target("http://127.0.0.1:1", "org/coder", None, SECRET))
    said = " ".join((*told.flags, *told.variables.values()))
    assert "http://127.0.0.1:1" in said
    assert "org/coder" in said
    assert "None" not in said


@pytest.mark.parametrize("name", quick_and_slow(NAMES[:2], NAMES[2:]))
def test_a_launched_program_is_told_what_print_shows(name: str, installed: str, tmp_path: Path) -> None:
    key_file = tmp_path / "a key"
    key_file.write_text(f"{SECRET}\n")
    hostile = {"PATH": installed, "ANTHROPIC_API_KEY": "mine", "OPENAI_BASE_URL": "https://elsewhere.example"}
    with answering(200, served(), key=SECRET) as (port, _):
        words = [name, "--port", port, "--key-file", str(key_file), "do", "--yolo", "it's $HOME"]
        launched = run("launch", *words, **hostile)
        shown = run("launch", "--print", *words, **hostile).stdout
    assert SECRET not in launched.stderr + shown
    by_hand = subprocess.run(
        shown, shell=True, capture_output=True, text=True, check=True, env={**os.environ, **hostile}
    )
    (flags, variables), (same_flags, same_variables) = json.loads(launched.stdout), json.loads(by_hand.stdout)
    assert flags[-3:] == ["do", "--yolo", "it's $HOME"]
    assert flags == same_flags
    told = PROGRAMS[name].tell(Target(f"http://127.0.0.1:{port}", "coder", 65536, SECRET))
    for variable in (*told.variables, *told.without):
        assert variables.get(variable) == same_variables.get(variable) == told.variables.get(variable)


def test_the_path_of_our_own_modules_is_not_passed_on(installed: str) -> None:
    with answering(200, served()) as (port, _):
        done = run(
            "launch", "codex", "--port", port, PATH=installed
        )  # run() puts this checkout on PYTHONPATH
    assert "PYTHONPATH" not in json.loads(done.stdout)[1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"capabilities": {**CAN, "tools": "none"}}, "coder cannot call tools"),
        ({"context_length": 8192}, "coder has a context of 8,192 tokens"),
        ({"capabilities": {**CAN, "kind": "embedding"}}, "coder is no chat model"),
        (
            {"status": "failed", "reason": "it is broken", "context_length": None},
            "coder cannot be loaded: it is broken",
        ),
    ],
    ids=["no tools", "short context", "embedding", "failed"],
)
def test_a_model_that_does_not_suit_is_objected_to(changes: dict[str, Any], sentence: str) -> None:
    (said,) = objections(PROGRAMS["claude"], served(**changes))
    assert sentence in said


def test_a_model_that_suits_is_not_objected_to() -> None:
    assert not list(objections(PROGRAMS["claude"], CODER))
    assert not list(objections(PROGRAMS["aider"], served(capabilities={**CAN, "tools": "none"})))


def test_a_model_that_does_not_suit_is_launched_only_anyway(installed: str) -> None:
    with answering(200, served(context_length=8192)) as (port, _):
        words = ["launch", "claude", "--port", port, "--model", "coder"]
        done, anyway = run(*words, PATH=installed), run(*words, "--anyway", PATH=installed)
    assert (done.returncode, done.stdout) == (1, "")
    assert (anyway.returncode, bool(anyway.stdout)) == (0, True)
    assert "8,192 tokens" in done.stderr
    assert "8,192 tokens" in anyway.stderr


def test_a_model_of_which_nothing_is_known_is_loaded_first(installed: str) -> None:
    with answering(200, served(capabilities=None, context_length=None)) as (port, asked):
        run("launch", "codex", "--port", port, "--model", "coder", PATH=installed)
    assert ("/admin/models/coder/load", {"wait": True}) in asked


def test_the_only_chat_model_needs_no_name(installed: str) -> None:
    with answering(200, served()) as (port, asked):
        assert run("launch", "codex", "--port", port, PATH=installed).returncode == 0
    assert asked[-1] == ("/v1/models/coder", None)


def test_where_there_are_several_models_they_are_named() -> None:
    with answering(200, {"data": [CODER, {**CODER, "id": "writer"}]}) as (port, _):
        done = call("launch", "codex", "--port", port)
    assert done.stderr == "mlx-server: Say with --model which one it is to use: coder, writer.\n"


def test_what_is_known_to_be_no_chat_model_is_no_choice(installed: str) -> None:
    def model(id: str, **more: Any) -> dict[str, Any]:
        return {**CODER, "id": id, "capabilities": None, **more}

    others = [
        model("all-minilm-l6-v2"),
        model("ranks", capabilities={"kind": "reranker"}),
        model("gpt-4o", alias_of="coder"),
        model("broken", status="failed"),
    ]
    with answering(200, {**CODER, "data": [*others, CODER]}) as (port, asked):
        assert run("launch", "codex", "--port", port, PATH=installed).returncode == 0
    assert asked[-1] == ("/v1/models/coder", None)


@pytest.mark.parametrize("model", [(), ("--model", "coder")])
@pytest.mark.parametrize(
    "said", ["[]", "{}", '"text"', '{"data": [{"name": "coder"}]}', '{"data": ["coder"]}']
)
def test_what_is_no_server_of_ours_is_said_to_be_none(said: str, model: tuple[str, ...]) -> None:
    with answering(200, said) as (port, _):
        done = call("launch", "codex", "--port", port, *model)
    assert (done.returncode, "is not an mlx-server" in done.stderr) == (1, True)


def test_a_server_that_asks_for_a_key_is_shown_the_one_of_its_owner(installed: str, run_dir: Path) -> None:
    (run_dir / "worker.token").write_text("owner\n")
    with answering(200, served(), key="owner") as (port, _):
        done = run("launch", "claude", "--port", port, PATH=installed, MLX_SERVER_RUN_DIR=str(run_dir))
    assert json.loads(done.stdout)[1]["ANTHROPIC_AUTH_TOKEN"] == "owner"


def test_a_server_without_keys_is_not_shown_the_one_of_its_owner(installed: str, run_dir: Path) -> None:
    (run_dir / "worker.token").write_text("owner\n")
    with answering(200, served()) as (port, _):
        done = run("launch", "claude", "--port", port, PATH=installed, MLX_SERVER_RUN_DIR=str(run_dir))
    assert json.loads(done.stdout)[1]["ANTHROPIC_AUTH_TOKEN"] == "unused"


def test_a_key_that_is_missing_is_asked_for() -> None:
    with answering(200, served(), key="another") as (port, _):
        done = call("launch", "codex", "--port", port)
    assert done.returncode == 1
    assert "asks for an API key: --key-file FILE" in done.stderr


def test_a_program_that_is_not_known_or_not_there_is_said_to_be(tmp_path: Path) -> None:
    unknown = call("launch", "cluade")
    assert (unknown.returncode, "did you mean claude?" in unknown.stderr) == (2, True)
    with answering(200, served()) as (port, _):
        missing = call("launch", "codex", "--port", port, PATH=str(tmp_path))
    assert missing.returncode == 1
    assert "is not installed: npm install -g @openai/codex" in missing.stderr


def test_launch_without_a_server_says_how_to_start_one() -> None:
    done = call("launch", "codex", "--port", str(free_port()))
    assert done.returncode == 1
    assert "serve` starts a server" in done.stderr
