"""``mlx-server config show``, ``check`` and ``init``: what the settings are and where each is from, and their file.

Rule: no API key is shown. ``init`` overwrites nothing.
"""

import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from rich.console import Console
from rich.table import Column, Table

from cli.models.wrong import wrong_models
from cli.refusal import refuse
from shared import exits
from shared.certificate import unusable_certificate
from shared.commands import typed
from shared.config_file import IN_FOLDER
from shared.dotenv import NOT_FROM_A_FOLDER
from shared.model_table import NAMES_A_FILE, HostingKeys, ModelTable
from shared.settings import Settings, load_settings, origins, read_settings
from shared.settings_errors import SettingsError

# Which stand as tables in the file, or are the file itself, or would name this machine's Python.
_NOT_IN_FILE = frozenset({"config", "models", "available_models", "worker_command"})
_NOTHING: tuple[object, ...] = (None, [], {})
# For settings and keys of tables whose default is nothing.
_EXAMPLES: Mapping[str, object] = {
    "api_keys_file": "~/mlx-server.keys",
    "tls_certificate": "~/tls/fullchain.pem",
    "tls_key": "~/tls/key.pem",
    "tls_ca": "~/tls/ca.pem",
    "default_model": "small",
    "prompt_disk_gb": 20.0,
    "prompt_disk_dir": "/Volumes/Fast/mlx-server",
    "run_dir": "/tmp/mlx-server",  # noqa: S108
    "context_length": 32768,
    "prefill_chunk": 512,
    "revision": "main",
    "draft": "mlx-community/Llama-3.2-1B-Instruct-4bit",
    "aliases": ["gpt-4o", "claude-*"],
    "ttl": 600,
    "replicas": "1-2",
    "memory_gb": 4,
    "defaults": {"temperature": 0.7},
}


def show(options: Mapping[str, Any], *, as_json: bool) -> int:
    """Returns the exit code, as all of these; settings that cannot be read exit 2 before."""
    settings, where = load_settings(**options), origins(**options)
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    values["run_dir"] = settings.sockets_dir
    rows = [{"setting": name, "value": plain(value), "source": where[name]} for name, value in values.items()]
    if as_json:
        print(json.dumps(rows))
        return 0
    table = Table(*(Column(name, overflow="fold") for name in ("setting", "value", "source")), box=None)
    for row in rows:
        table.add_row(row["setting"], _in_words(row["value"]), row["source"])
    Console(highlight=False, markup=False).print(table)
    return 0


def check(file: Path | None) -> int:
    """The file that is named, or the one a server would find here, with what else it would read."""
    try:
        settings = read_settings(**({} if file is None else {"config": file}))
    except SettingsError as error:
        for line in error.lines:
            refuse(line)
        return exits.UNUSABLE
    if settings.config is None:
        return refuse(f"There is no configuration file here; `{typed('mlx-server')} config init` writes one.")
    if wrong := [line for line in (unusable_certificate(settings), *wrong_models(settings)) if line]:
        for line in wrong:
            refuse(line)
        return exits.UNUSABLE
    print(f"{settings.config} can be used. The models: {', '.join(settings.registry.names)}.")
    return 0


def init(file: Path | None) -> int:
    """Writes a file in which each setting stands as a comment, with its default."""
    path = file or Path(IN_FOLDER)
    try:
        with path.open("x", encoding="utf-8") as output:
            output.write(template())
    except FileExistsError:
        return refuse(
            f"{path} is there already, and stays as it is; `{typed('mlx-server')} config check` looks at it."
        )
    except OSError as error:
        return refuse(f"{path} cannot be written: {error.strerror}.")
    print(f"{path} is written; each line of it is a comment. Take the '#' off what you want to change.")
    return 0


def template() -> str:
    return "\n".join(_template()) + "\n"


def _template() -> Iterator[str]:
    yield "# Settings and models of mlx-server; docs/operators.md says more of each."
    yield "# The environment (MLX_SERVER_PORT=…), .env and options win over what stands here."
    yield ""
    yield "[server]"
    fields = {name: each for name, each in Settings.model_fields.items() if name not in _NOT_IN_FILE}
    for name, each in fields.items():
        if name not in NOT_FROM_A_FOLDER:
            yield from _commented(name, each.default, each.description)
    yield ""
    yield "# These count only in a file that --config names, or in ~/.config/mlx-server/config.toml:"
    for name, each in fields.items():
        if name in NOT_FROM_A_FOLDER:
            yield from _commented(name, each.default, each.description)
    yield ""
    yield "# A table for each model. With one table here, the models of the tables are all that may be asked for."
    yield "#[models.small]"
    for name, each in ModelTable.model_fields.items():
        if name in NAMES_A_FILE or name in HostingKeys.model_fields:  # no example is right on every machine
            yield ""
            yield from textwrap.wrap(
                f"{name}: {each.description}", 110, initial_indent="# ", subsequent_indent="# "
            )
            continue
        default = "mlx-community/Llama-3.2-3B-Instruct-4bit" if name == "source" else each.default
        yield from _commented(name, default, each.description)


def _commented(name: str, default: object, description: str | None) -> Iterator[str]:
    yield ""
    yield from textwrap.wrap(description or "", 110, initial_indent="# ", subsequent_indent="# ")
    value = plain(default)
    yield f"#{name} = {_toml(_EXAMPLES[name] if name in _EXAMPLES and value in _NOTHING else value)}"


def plain(value: Any) -> Any:
    """As JSON has it, without secrets."""
    match value:
        case SecretStr():
            return "(hidden)"
        case BaseModel():
            return value.model_dump(mode="json", exclude_defaults=True)
        case os.PathLike():
            return os.fspath(value)
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case tuple():
            return [plain(each) for each in value]
        case _:
            return value


def _in_words(value: Any) -> str:
    match value:
        case None | [] | {}:
            return "–"
        case str():
            return value
        case list() if all(isinstance(each, str) for each in value):
            return ", ".join(value)
        case _:
            return json.dumps(value)


def _toml(value: object) -> str:
    """JSON's texts, numbers, lists and booleans are TOML's too."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{name} = {_toml(each)}' for name, each in value.items())} }}"
    return json.dumps(value)
