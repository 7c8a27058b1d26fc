"""``mlx-server.toml``: settings and models of an operator in one optional file.

Rule 1: MLX_SERVER_CONFIG names it, else it is ./mlx-server.toml, else ~/.config/mlx-server/config.toml: the first there
    is. The environment wins over each of its keys.
Rule 2: an error names the file, the line and the key. An unknown key is an error, with the nearest right one.
Rule 3: a file found in the folder may be a stranger's, as ``.env``: it names no command, host, origin, folder or key.
"""

import re
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from shared.dotenv import NOT_FROM_A_FOLDER
from shared.model_table import NAMES_A_FILE, NAMES_A_MODEL, NOT_IF_FOUND, Key
from shared.models import is_folder, names_a_folder

IN_FOLDER = "mlx-server.toml"
AT_HOME = Path("~/.config/mlx-server/config.toml")
MAX_BYTES = 256 << 10
_NOT_IN_SERVER = frozenset({"config", "models"})  # which the file itself is, and has
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class ConfigError(Exception):
    """``lines``: one for each thing that is wrong."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


@dataclass(frozen=True)
class ConfigFile:
    """``named``: the operator gave its path, or it is at home; else it was found in the folder."""

    path: Path
    named: bool
    text: str = field(default="", repr=False)
    server: dict[str, Any] = field(default_factory=dict)
    models: dict[str, Any] = field(default_factory=dict)

    def at(self, key: Key, message: str) -> str:
        """A line for the operator: file, line, key and what is wrong."""
        line = line_of(self.text, key)
        return f"{self.path}{f', line {line}' if line else ''}: {shown(key)}: {message}"

    def at_line(self, name: str) -> str:
        """Where it sets this setting, or the models."""
        line = line_of(self.text, ("server", name) if name in self.server else ("models",))
        return f"{self.path}{f', line {line}' if line else ''}"

    def objections(self, settings: Collection[str]) -> Iterator[str]:
        """Against keys, before any value is looked at. ``settings``: what ``[server]`` may have."""
        known = sorted(set(settings) - _NOT_IN_SERVER)
        for name, value in self.server.items():
            if name not in known:
                yield self.at(("server", name), _unknown(name, known))
            elif not self.named and name in NOT_FROM_A_FOLDER:
                yield self.at(("server", name), _not_from_here("set this"))
            elif not self.named and name == "available_models" and names_a_folder(value):
                yield self.at(("server", name), _not_from_here("name a folder"))
        if self.models and "available_models" in self.server:
            yield self.at(
                ("server", "available_models"),
                "this file has [models] as well; give each of these models a table there, and leave this out",
            )
        for name, table in self.models.items():
            if self.named or not isinstance(table, dict):
                continue
            for key in NAMES_A_MODEL:
                if isinstance(source := table.get(key), str) and is_folder(source):
                    yield self.at(("models", name, key), _not_from_here("name a folder"))
            for key in NOT_IF_FOUND:
                if key in table:
                    yield self.at(("models", name, key), _not_from_here("set this"))


def _not_from_here(what: str) -> str:
    return (
        f"a file in the folder where the server is started may not {what}, as it may be a stranger's. Name the file in "
        f"MLX_SERVER_CONFIG (--config), or move it to {AT_HOME}"
    )


def _unknown(name: str, known: Collection[str]) -> str:
    near = get_close_matches(name.lower(), known, 1)
    return "there is no such setting" + (f"; did you mean {near[0]}?" if near else "")


def find(named: str | None, folder: Path, home: Path | None) -> ConfigFile | None:
    """Reads the file there is. ``named`` "": none is read. Raises ConfigError."""
    if named is not None:
        return _read(Path(named).expanduser().absolute(), named=True) if named else None
    if (path := folder.absolute() / IN_FOLDER).exists():
        return _read(path, named=False)
    if home and (path := home / AT_HOME.relative_to("~")).exists():
        return _read(path, named=True)
    return None


def _read(path: Path, *, named: bool) -> ConfigFile:
    text = _text(path)
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: this is not TOML: {error}") from error
    file = ConfigFile(path, named, text)
    wrong = [file.at((name,), _unknown_table(name)) for name in tree if name not in ("server", "models")]
    wrong += [
        file.at((name,), f"this is a table: [{name}]")
        for name, value in tree.items()
        if not isinstance(value, dict)
    ]
    if wrong:
        raise ConfigError(*dict.fromkeys(wrong))
    models = {name: _from_folder(table, path.parent) for name, table in tree.get("models", {}).items()}
    return ConfigFile(path, named, text, tree.get("server", {}), models)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: this is longer than {MAX_BYTES >> 10} KiB")
        return content.decode().replace("\r\n", "\n")
    except FileNotFoundError:
        raise ConfigError(f"MLX_SERVER_CONFIG: there is no file {path}") from None
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: it is not UTF-8: {error.reason} at byte {error.start}") from error


def _unknown_table(name: str) -> str:
    return f'there are [server] and [models."NAME"]; a setting such as {name} stands in one of them'


def _from_folder(table: Any, folder: Path) -> Any:
    """A relative path is meant from the file on, wherever the server is started."""
    if not isinstance(table, dict):
        return table
    found = dict(table)
    for key in (*NAMES_A_MODEL, "cwd"):
        if isinstance(path := table.get(key), str) and path.startswith("."):
            found[key] = str((folder / path).resolve())
    for key in NAMES_A_FILE:
        if isinstance(path := table.get(key), str) and not path.startswith("~"):
            found[key] = str(folder / path)
    return found


def line_of(text: str, key: Key) -> int | None:
    """The line where ``key`` is set: ``tomllib`` tells none.

    The shortest beginning of whole lines that parses and has the key ends where the value ends; the value begins behind
    the longest shorter one that parses.
    """
    names = [part for part in key if isinstance(part, str)]
    lines = text.split("\n")
    while names:
        suspects = [number for number, line in enumerate(lines) if names[-1] in line] or range(len(lines))
        for number in suspects:
            if (
                not _has(lines[:number], names)
                and (_parses(lines[:number]))
                and _appears(lines, number, names)
            ):
                return number + 1
        names.pop()  # a key that is missing is blamed on its table
    return None


def _appears(lines: list[str], number: int, names: list[str]) -> bool:
    """Whether the statement that begins on this line brings the key."""
    for end in range(number + 1, len(lines) + 1):
        if _parses(lines[:end]):
            return _has(lines[:end], names)
    return False


def _parses(lines: list[str]) -> bool:
    return _tree(lines) is not None


def _has(lines: list[str], names: list[str]) -> bool:
    found: Any = _tree(lines)
    for name in names:
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    return True


def _tree(lines: list[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join(lines))
    except (tomllib.TOMLDecodeError, RecursionError):
        return None


def shown(key: Key) -> str:
    """As TOML writes it: ``models."org/name".aliases[1]``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}" for part in key]
    return "".join(parts).removeprefix(".")


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return name if _BARE.fullmatch(name) else f'"{escaped}"'
