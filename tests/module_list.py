"""The list of modules in docs/architecture.md, made from the first sentence of each docstring.

``python -m tests.module_list`` writes it; ``tests/test_architecture.py`` fails where it is out of date.
"""

import ast
import re
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "architecture.md"
PACKAGES = ("shared", "api", "broker", "workers", "cli")
BEGIN, END = "<!-- modules -->", "<!-- /modules -->"


def first_sentence(docstring: str) -> str:
    """Up to the first full stop, semicolon or colon that ends a clause; on one line."""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=[.])\s|[.]$", paragraph)[0].rstrip(".").replace("``", "`")


def row(path: Path, folder: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path} has no docstring"
    return f"| `{path.relative_to(folder)}` | {first_sentence(docstring)} |"


def modules(folder: Path) -> list[Path]:
    """Those of the folder itself first, then those of the folders in it."""
    found = (path for path in folder.rglob("*.py") if path.stem != "__init__")
    return sorted(found, key=lambda path: (path.parent.parts, path.name))


def module_list() -> str:
    parts: list[str] = []
    for package in PACKAGES:
        for folder, paths in groupby(modules(ROOT / package), key=lambda path: path.parent):
            parts += [f"### {folder.relative_to(ROOT)}/", "", "| | |", "|---|---|"]
            parts += [*(row(path, folder) for path in paths), ""]
    return "\n".join(parts).strip()


def sections() -> tuple[str, str, str]:
    """The guide before the list, the list, and the guide behind it."""
    before, _, rest = GUIDE.read_text().partition(BEGIN)
    inside, _, after = rest.partition(END)
    return before, inside.strip(), after


if __name__ == "__main__":
    before, _, after = sections()
    GUIDE.write_text(f"{before}{BEGIN}\n\n{module_list()}\n\n{END}{after}")
