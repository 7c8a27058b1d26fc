"""``.env`` of the folder where a process is started, and names that are no setting.

A folder is often somebody else's checkout. So its ``.env`` may tune a server, but neither run a program, nor open the
server to others, nor choose folders or keys.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import Original, parse_stream

PREFIX = "MLX_SERVER_"
NOT_FROM_A_FOLDER = frozenset(
    {
        "config",
        "worker_command",
        "host",
        "allow_anyone",
        "api_keys",
        "api_keys_file",
        "keys_file",
        "tls_certificate",
        "tls_key",
        "tls_ca",
        "allowed_hosts",
        "cors_origins",
        "run_dir",
        "cache_dir",
        "prompt_disk_dir",
    }
)
NO_SETTINGS = frozenset({"PYTHON", "STACK", "FAULT", "ACCELERATOR_PATH"})  # of our own processes and tests


@dataclass(frozen=True)
class Line:
    """``setting`` is its name as the class has it, ``value`` what pydantic-settings reads: ``${…}`` is filled in."""

    number: int
    setting: str
    value: str

    def refused(self, path: Path) -> str:
        return (
            f"{PREFIX}{self.setting.upper()}: line {self.number} of {path.absolute()} sets it, and a file in the "
            "folder where the server is started may not. Set it in the environment or as an option instead."
        )


def read_dotenv(path: Path) -> list[Line]:
    """The lines that name something of ours; none if there is no such file, or it cannot be read.

    A checkout may hold a link to a device that never ends.
    """
    try:
        if not (path.is_file() or path.is_fifo()):
            return []
        with path.open(encoding="utf-8") as stream:
            numbers = {found.key: _line(found.original) for found in parse_stream(stream) if found.key}
        values = dotenv_values(path, encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return [
        Line(numbers[name], name.upper().removeprefix(PREFIX).lower(), value or "")
        for name, value in values.items()
        if name.upper().startswith(PREFIX)
    ]


def _line(found: Original) -> int:
    """The parser counts from the empty lines on that stand before a variable."""
    return found.line + found.string[: len(found.string) - len(found.string.lstrip())].count("\n")


def unknown_names(names: Iterable[str], known: Collection[str]) -> list[str]:
    """A line for each name with our prefix that is no setting."""
    wanted = [PREFIX + name.upper() for name in known]
    lines = []
    for name in sorted({name.upper() for name in names if name.upper().startswith(PREFIX)}):
        if name in wanted or name.removeprefix(PREFIX) in NO_SETTINGS:
            continue
        near = get_close_matches(name, wanted, 1)
        lines.append(f"{name} is no setting" + (f"; did you mean {near[0]}?" if near else " and is ignored."))
    return lines
