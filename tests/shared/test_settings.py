"""How an operator's words become settings, and what is said when they cannot."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from shared.models import EMBEDDED_EMBEDDER, EMBEDDED_MODEL
from shared.settings import PREFIX, Settings, load_settings

ROOT = Path(__file__).parents[2]
LLAMA = "mlx-community/Llama-3.2-3B-Instruct-4bit"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no .env file is read but the test's own."""
    monkeypatch.chdir(tmp_path)


def from_environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"{PREFIX}{name}", value)
    return Settings()


# ---------------------------------------------------------------- the fixed ones


def test_the_defaults_are_those_of_the_specification() -> None:
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.available_models == (LLAMA, EMBEDDED_MODEL, EMBEDDED_EMBEDDER)
    assert settings.default_model is None
    assert settings.max_cache_size_gb == 8.0


@pytest.mark.parametrize("size", [1, 128, 2.5])
def test_a_memory_budget_within_its_bounds_is_taken(size: float) -> None:
    assert Settings(max_cache_size_gb=size).max_cache_size_gb == size


@pytest.mark.parametrize("size", [0.99, 128.01, float("nan"), float("inf")])
def test_a_memory_budget_out_of_bounds_is_refused(size: float) -> None:
    with pytest.raises(ValidationError, match="max_cache_size_gb"):
        Settings(max_cache_size_gb=size)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize(
    "written", ["a/b,c", " a/b , c ", "a/b,c,", '["a/b", "c"]', ' ["a/b","c"]\n'], ids=repr
)
def test_a_list_is_comma_separated_or_json(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    assert from_environment(monkeypatch, AVAILABLE_MODELS=written).available_models == ("a/b", "c")


def test_a_command_with_commas_is_written_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_environment(monkeypatch, WORKER_COMMAND='["prog", "--ids", "1,2"]')
    assert settings.worker_command == ("prog", "--ids", "1,2")


def test_sources_are_in_the_operators_order(tmp_path: Path) -> None:
    settings = Settings(available_models=["z/z", f"mine={tmp_path}", EMBEDDED_MODEL])
    assert list(settings.sources) == ["z/z", "mine", EMBEDDED_MODEL]
    assert [source.kind for source in settings.sources.values()] == ["hub", "folder", "embedded"]


def test_the_default_model_must_be_one_of_the_available_models() -> None:
    assert Settings(available_models=["a/b"], default_model="a/b").default_model == "a/b"
    with pytest.raises(ValidationError, match="'c' is not one of available_models"):
        Settings(available_models=["a/b"], default_model="c")


# ---------------------------------------------------------------- sources


def test_a_dotenv_file_is_read() -> None:
    Path(".env").write_text(f"{PREFIX}PORT=8001\n{PREFIX}AVAILABLE_MODELS=a/b,c\nSOMETHING_ELSE=1\n")
    settings = Settings()
    assert settings.port == 8001
    assert settings.available_models == ("a/b", "c")


def test_the_environment_wins_over_the_file_and_an_option_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text(f"{PREFIX}PORT=8001\n{PREFIX}LOG_LEVEL=debug\n")
    settings = from_environment(monkeypatch, PORT="8002")
    assert (settings.port, settings.log_level) == (8002, "debug")
    assert load_settings(port=8003).port == 8003


# ---------------------------------------------------------------- the run directory


def test_stacks_on_different_ports_have_different_run_directories() -> None:
    assert Settings(port=8001).sockets_dir != Settings(port=8002).sockets_dir


def test_everything_of_a_stack_is_in_its_run_directory(tmp_path: Path) -> None:
    settings = Settings(run_dir=tmp_path)
    places = (settings.api_socket, settings.worker_socket, settings.token_file, settings.log_dir)
    assert {place.parent for place in places} == {tmp_path} == {settings.sockets_dir}


def test_a_run_directory_may_be_relative_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Settings(run_dir=Path("run")).sockets_dir == tmp_path / "run"
    assert Settings(run_dir=Path("~/run")).sockets_dir == Path("/home/somebody/run")


def test_a_path_too_long_for_a_socket_is_refused() -> None:
    assert Settings(run_dir=Path("/" + "d" * 90)).sockets_dir.is_absolute()
    for name in ("d" * 91, "ü" * 46):
        with pytest.raises(ValidationError, match="too long a path for a socket"):
            Settings(run_dir=Path(f"/{name}"))


# ---------------------------------------------------------------- what is said

BAD = {
    "PORT": ["0", "65536", "http", ""],
    "AVAILABLE_MODELS": ["", ",", "a b", "a,a", "[", '["a"', "mine="],
    "MAX_CACHE_SIZE_GB": ["0", "129", "much", "nan"],
    "LOG_LEVEL": ["loud"],
    "API_PROCESSES": ["0", "1.5"],
    "WORKER_COMMAND": ["", "[]"],
    "QUEUE_AGE": ["0", "-1"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_a_bad_value_names_its_key(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{PREFIX}{name}", value)
    with pytest.raises(SystemExit) as exit:
        load_settings()
    assert exit.value.code == 2
    assert f"{PREFIX}{name}: " in capsys.readouterr().err


def test_all_bad_values_are_named_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"{PREFIX}PORT", "x")
    monkeypatch.setenv(f"{PREFIX}LOG_LEVEL", "y")
    with pytest.raises(SystemExit):
        load_settings()
    said = capsys.readouterr().err
    assert f"{PREFIX}PORT" in said
    assert f"{PREFIX}LOG_LEVEL" in said


@pytest.mark.parametrize("process", ["broker", "api", "cli serve"])
def test_each_process_exits_2_within_seconds(process: str) -> None:
    """Of the processor's time, so that a busy machine does not matter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", *process.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT), f"{PREFIX}PORT": "99999"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    assert f"{PREFIX}PORT" in done.stderr
    assert "Traceback" not in done.stderr
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 3


# ---------------------------------------------------------------- what the operators' guide says

SPECIAL = {  # defaults that depend on the machine, in words
    "run_dir": "one per user and port",
    "worker_command": "this Python, `-m workers`",
}


def row(name: str, field: FieldInfo) -> str:
    return f"| `{PREFIX}{name.upper()}` | {SPECIAL.get(name) or shown(field.default)} |"


def shown(default: Any) -> str:
    if default is None:
        return "–"
    if isinstance(default, tuple):
        default = ",".join(default)
    if default == "":
        return "none"
    if isinstance(default, bool):
        default = str(default).lower()
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_operators_guide_has_each_setting_with_its_default(name: str) -> None:
    guide = (ROOT / "docs" / "operators.md").read_text()
    assert row(name, Settings.model_fields[name]) in guide


def test_the_operators_guide_has_no_setting_that_is_gone() -> None:
    guide = (ROOT / "docs" / "operators.md").read_text()
    rows = {line.split("`")[1] for line in guide.splitlines() if line.startswith(f"| `{PREFIX}")}
    assert rows == {PREFIX + name.upper() for name in Settings.model_fields}
