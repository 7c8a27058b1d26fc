"""What is wrong with settings, a line for each: named as the operator wrote it, in a file with its line."""

from collections.abc import Collection
from typing import Any

from pydantic import ValidationError

from shared.config_file import ConfigFile, shown
from shared.dotenv import PREFIX
from shared.model_table import Key, WrongTable, known_keys, unknown_key


class SettingsError(Exception):
    """``lines``: one for each setting that is wrong."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def explain(
    error: ValidationError, file: ConfigFile | None = None, elsewhere: Collection[str] = ()
) -> list[str]:
    """One line per bad setting, named as the operator wrote it. ``elsewhere``: settings that are not the file's."""
    return [_blame(*_blamed(item), file, elsewhere) for item in error.errors()]


def _blame(key: Key, message: str, file: ConfigFile | None, elsewhere: Collection[str]) -> str:
    name, rest = str(key[0]), key[1:]
    if file and name not in elsewhere:
        if name == "models" and file.models:
            return file.at(key, message)
        if name in file.server:
            return file.at(("server", name), message)
    path = f": {shown(rest)}" if name == "models" and rest else ""
    return f"{PREFIX}{name.upper()}{path}: {message}"


def _blamed(item: Any) -> tuple[Key, str]:
    """The key that is wrong, and why."""
    message, key = item["msg"].removeprefix("Value error, "), item["loc"]
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, WrongTable):
        return cause.key, message
    if not key:  # of several settings together; the message begins with the name of the wrong one
        name = message.split()[0]
        return (name,), message.removeprefix(f"{name} ")[:500]
    if item["type"] == "extra_forbidden":
        return key, unknown_key(str(key[-1]), known_keys(key))
    if item["type"] == "model_type":
        message = "this is a table"
    if key[0] == "api_keys":  # no line quotes a key
        return key[:1], message
    return key, f"{message} (got {item['input']!r})"[:500]
