"""``.env`` of the folder where a process is started, and names that are no setting.

A folder is often somebody else's checkout. So its ``.env`` may tune a server, but neither run a program, nor open the
server to others, nor choose folders.
"""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path

from dotenv.parser import parse_stream

from shared.models import parse_source

PREFIX = "MLX_SERVER_"
NOT_FROM_A_FOLDER = frozenset(
    {"worker_command", "host", "allow_anyone", "run_dir", "cache_dir", "allowed_hosts"}
)
NO_SETTINGS = frozenset({"PYTHON", "STACK", "FAULT"})  # what our own processes and tests tell each other


class Dotenv(dict[str, tuple[int, str]]):
    """By name: its line and its value."""

    path: Path

    def why_not(self, name: str) -> str | None:
        """Why this line is refused, if it is."""
        line, value = self[name]
        setting = name.upper().removeprefix(PREFIX).lower()
        if not name.upper().startswith(PREFIX):
            return None
        if setting in NOT_FROM_A_FOLDER or (setting == "available_models" and _names_a_folder(value)):
            return (
                f"{name.upper()}: line {line} of {self.path} sets it, and a file in the folder where the server is "
                "started may not. Remove the line, and set it in the environment or as an option."
            )
        return None


def read_dotenv(path: Path) -> Dotenv:
    """Empty if there is none, or if it cannot be read."""
    found = Dotenv()
    found.path = path.absolute()
    try:
        with path.open(encoding="utf-8") as stream:
            for binding in parse_stream(stream):
                if binding.key:
                    found[binding.key] = binding.original.line, binding.value or ""
    except (OSError, UnicodeDecodeError):
        return found
    return found


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


def _names_a_folder(models: str) -> bool:
    for entry in models.strip("[] ").split(","):
        try:
            if parse_source(entry.strip(" \"'")).kind == "folder":
                return True
        except ValueError:
            continue
    return False
