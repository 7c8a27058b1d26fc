"""The table of what ``[models."NAME"]`` may have, in docs/operators.md, made from the class that checks it.

``python -m tests.config_table`` writes it; ``tests/test_config_docs.py`` fails where it is out of date.
"""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from shared.model_table import HostingKeys, ModelTable, SamplingDefaults
from tests.module_list import ROOT

GUIDE = ROOT / "docs" / "operators.md"
BEGIN, END = "<!-- models -->", "<!-- /models -->"
_WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    SamplingDefaults: "table",
    dict: "table of texts",
    tuple: "list of texts",
    Path: "path",
}


def kind(annotation: Any) -> str:
    """In words for an operator; a KeyError is a type that has none yet."""
    if (origin := get_origin(annotation)) in (tuple, dict):
        return _WORDS[origin]
    if origin is Literal:
        return _WORDS[str]
    named = [part for part in get_args(annotation) if part is not type(None)] or [annotation]
    return _WORDS[getattr(named[0], "__origin__", named[0])]


def config_table() -> str:
    rows = [
        f"| `{name}` | {kind(field.annotation)} | {field.description} |"
        for name, field in sorted(
            ModelTable.model_fields.items(), key=lambda item: item[0] in HostingKeys.model_fields
        )
    ]
    return "\n".join(["| key | | meaning |", "|---|---|---|", *rows])


def sections() -> tuple[str, str, str]:
    """The guide before the table, the table, and the guide behind it."""
    before, _, rest = GUIDE.read_text().partition(BEGIN)
    inside, _, after = rest.partition(END)
    return before, inside.strip(), after


if __name__ == "__main__":
    before, _, after = sections()
    GUIDE.write_text(f"{before}{BEGIN}\n\n{config_table()}\n\n{END}{after}")
