"""``mlx-server config``: where settings come from, what is wrong with their file, and a file to begin with."""

import json
import re
import tomllib
from pathlib import Path

from cli.config import template
from shared.settings import PREFIX, Settings, read_settings
from tests.cli.command import call

BROKEN = """[server]
port = 8000
max_in_flihgt = 3

[models.small]
source = "mlx-community/Llama-3.2-3B-Instruct-4bit"
ttl = -1
"""


def shown(**environment: str) -> dict[str, tuple[object, str]]:
    rows = json.loads(call("config", "show", "--json", **environment).stdout)
    return {row["setting"]: (row["value"], row["source"]) for row in rows}


def test_each_setting_is_shown_with_the_source_that_won(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[server]\nport = 8001\nttl = 5\nmin_stay = 7\n\n[models.small]\nsource = 'a/b'\n")
    (tmp_path / ".env").write_text("\nMLX_SERVER_TTL=6\nMLX_SERVER_MAX_WAIT=8\n")
    found = shown(MLX_SERVER_CONFIG=str(file), MLX_SERVER_PORT="8002", MLX_SERVER_HOST="127.0.0.2")
    assert set(found) == set(Settings.model_fields)
    assert found["port"] == (8002, "environment")
    assert found["ttl"] == (6.0, ".env, line 2")
    assert found["max_wait"] == (8.0, ".env, line 3")
    assert found["min_stay"] == (7.0, f"{file}, line 4")
    assert found["models"] == ({"small": {"source": "a/b"}}, f"{file}, line 6")
    assert found["available_models"] == (["small"], f"{file}, line 6")
    assert found["queue_age"] == (120.0, "default")


def test_no_api_key_is_shown() -> None:
    secret = "sk-of-sixteen-letters"
    for words in (["show"], ["show", "--json"]):
        done = call("config", *words, MLX_SERVER_API_KEYS=f"anna={secret},{secret}-2")
        assert done.returncode == 0
        assert "hidden" in done.stdout
        assert "sixteen" not in done.stdout + done.stderr


def test_a_file_is_checked_by_line_and_key(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text(BROKEN)
    unknown = call("config", "check", str(file))
    assert unknown.returncode == 2
    assert (
        f"{file}, line 3: server.max_in_flihgt: there is no such setting; did you mean max_in_flight?"
        in unknown.stderr
    )
    file.write_text(BROKEN.replace("max_in_flihgt", "max_in_flight"))
    assert f"{file}, line 7: models.small.ttl: " in call("config", "check", str(file)).stderr
    file.write_text(BROKEN.replace("max_in_flihgt", "max_in_flight").replace("-1", "1"))
    good = call("config", "check", str(file))
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == f"{file} can be used. The models: small.\n"


def test_a_model_of_the_file_that_cannot_be_is_found_by_check(tmp_path: Path) -> None:
    file = tmp_path / "gone.toml"
    file.write_text("[models.mine]\nsource = '/no/such/folder'\n")
    done = call("config", "check", str(file))
    assert done.returncode == 2
    assert f"{file}" in done.stderr
    assert "mine: there is no folder /no/such/folder" in done.stderr


def test_without_a_file_check_says_how_to_get_one() -> None:
    done = call("config", "check", HOME="/nowhere")
    assert done.returncode == 1
    assert "config init` writes one" in done.stderr


def test_init_writes_a_file_that_changes_nothing_and_never_overwrites(tmp_path: Path) -> None:
    assert call("config", "init").returncode == 0
    file = tmp_path / "mlx-server.toml"
    assert tomllib.loads(file.read_text()) == {"server": {}}
    assert call("config", "check", "mlx-server.toml").returncode == 0
    file.write_text("# mine\n")
    again = call("config", "init")
    assert again.returncode == 1
    assert "is there already" in again.stderr
    assert file.read_text() == "# mine\n"


def test_each_line_of_the_file_that_init_writes_may_be_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "all.toml"
    file.write_text(re.sub(r"(?m)^#(?! )", "", template()))
    tree = tomllib.loads(file.read_text())
    assert Settings.model_fields.keys() - tree["server"].keys() == {
        "config",
        "models",
        "available_models",
        "worker_command",
    }
    settings = read_settings(config=file)
    untouched = Settings(config=None)
    for name in ("port", "max_cache_size_gb", "log_level", "ttl", "allowed_hosts", "cache_dir"):
        assert getattr(settings, name) == getattr(untouched, name), PREFIX + name
