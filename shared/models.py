"""The models that an operator has allowed: their names in requests, and where each comes from.

A name in a request is looked up here and nowhere else; it never becomes a path or a download.
A model's own name is looked for first, then aliases, then patterns: the one with the most letters, of equals the first.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shared.model_table import Key, ModelTable, WrongTable

EMBEDDED_MODEL = "smollm2-135m-instruct"
EMBEDDED_EMBEDDER = "all-minilm-l6-v2"
EMBEDDED = (EMBEDDED_MODEL, EMBEDDED_EMBEDDER)

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@:-]{0,199}")
_ALIAS = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._/@:*-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LETTERS = "letters, digits and . _ / @ : - only, 200 at most"


@dataclass(frozen=True)
class ModelSource:
    """``location``: a folder's path or a hub repository's id; empty for an embedded or a hosted model.

    ``revision``: of a hub repository; None is its main branch. ``allow_code``: its Python code may be run.
    """

    id: str
    kind: Literal["embedded", "folder", "hub", "hosted"]
    location: str
    revision: str | None = None
    allow_code: bool = False


def parse_source(entry: str) -> ModelSource:
    """Reads one entry of ``available_models``: ``ID``, ``/path/to/folder`` or ``ID=/path/to/folder``.

    A folder without an ID is named after itself. Raises ValueError with a sentence for the operator.
    """
    name, equals, location = entry.strip().partition("=")
    if not equals and is_folder(name):
        name, location = Path(name).expanduser().resolve().name, name
    if not _ID.fullmatch(name):
        raise ValueError(f"{name!r} is not a model id: {_LETTERS}")
    if location:
        return ModelSource(name, "folder", _folder(location))
    if equals:
        raise ValueError(f"{entry!r} names no folder after '='")
    if name in EMBEDDED:
        return ModelSource(name, "embedded", "")
    return ModelSource(name, "hub", name)


def is_folder(source: str) -> bool:
    """Whether it is written as a folder's path rather than as a name."""
    return source.startswith(("/", "~", "."))


def listed(value: str) -> list[Any]:
    """``a,b`` and ``["a", "b"]`` both mean two entries. Raises ValueError."""
    if value.lstrip().startswith("["):
        try:
            entries: list[Any] = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"starts like a JSON list but is not one: {error}") from error
        return entries
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def names_a_folder(entries: Any) -> bool:
    """Whether any entry of ``available_models``, in any of its forms, is a folder; False if they are none."""
    try:
        return any(
            parse_source(str(entry)).kind == "folder"
            for entry in (listed(entries) if isinstance(entries, str) else entries)
        )
    except (ValueError, TypeError):
        return False


def _folder(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def check_name(name: str) -> None:
    """Of a table. Raises WrongTable."""
    if not _ID.fullmatch(name):
        raise WrongTable(("models", name), f"{name!r} is not a model's name: {_LETTERS}")


def table_source(name: str, table: ModelTable) -> ModelSource:
    """The model of a table ``[models."NAME"]``. Raises WrongTable."""
    if table.serve:
        return ModelSource(name, "hosted", "")
    draft_source(name, table)
    source = _named_source(name, table.source)
    if table.allow_code and not _COMMIT.fullmatch(table.revision or ""):
        raise WrongTable(
            ("models", name, "allow_code"),
            "code is run only of a pinned revision of a hub repository: set revision to the commit that you have read, "
            "40 hexadecimal digits, or leave allow_code out",
        )
    if table.revision is None:
        return source
    if source.kind != "hub":
        raise WrongTable(("models", name, "revision"), "only a model of the hub has revisions")
    return ModelSource(source.id, source.kind, source.location, table.revision, table.allow_code)


def draft_source(name: str, table: ModelTable) -> ModelSource | None:
    """The draft model of a table, if it names one. Raises WrongTable."""
    return None if table.draft is None else _named_source(name, table.draft, "draft")


def _named_source(name: str, source: str | None, key: str = "source") -> ModelSource:
    if source is None:
        return parse_source(name)
    if source == "embedded":
        return ModelSource(name, "embedded", "")
    if is_folder(source):
        return ModelSource(name, "folder", _folder(source))
    if not _ID.fullmatch(source):
        raise WrongTable(
            ("models", name, key),
            f"{source!r} is no repository of the hub such as org/name, no folder and not 'embedded'",
        )
    return ModelSource(name, "hub", source)


@dataclass(frozen=True)
class Registry:
    """``aliases`` and ``patterns``: to the name of the model they stand for."""

    sources: Mapping[str, ModelSource]  # by name, in the operator's order
    aliases: Mapping[str, str] = field(default_factory=dict)
    patterns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[str], tables: Mapping[str, ModelTable]) -> "Registry":
        """``entries`` say which models there are; the tables what is known of them. Raises ValueError, WrongTable."""
        sources = {source.id: source for source in (_source(entry, tables) for entry in entries)}
        aliases: dict[str, str] = {}
        for name in sources:
            for index, alias in enumerate(tables[name].aliases if name in tables else ()):
                key: Key = ("models", name, "aliases", index)
                if wrong := _objection(alias, name, sources, aliases, tables):
                    raise WrongTable(key, wrong)
                aliases[alias] = name
        exact = {alias: name for alias, name in aliases.items() if "*" not in alias}
        return cls(sources, exact, {alias: name for alias, name in aliases.items() if "*" in alias})

    def resolve(self, name: str) -> str | None:
        """The model that ``name`` stands for; None: there is none."""
        if name in self.sources:
            return name
        if name in self.aliases:
            return self.aliases[name]
        fitting = [pattern for pattern in self.patterns if _fits(pattern, name)]
        return self.patterns[max(fitting, key=_letters)] if fitting else None

    def aliases_of(self, model: str) -> list[str]:
        """With patterns, in the operator's order within each kind."""
        return [
            alias for names in (self.aliases, self.patterns) for alias, name in names.items() if name == model
        ]

    @property
    def names(self) -> tuple[str, ...]:
        """All that can be written out: models, then aliases."""
        return (*self.sources, *self.aliases)


def _source(entry: str, tables: Mapping[str, ModelTable]) -> ModelSource:
    name = entry.strip()
    return table_source(name, tables[name]) if name in tables else parse_source(entry)


def _objection(
    alias: str,
    model: str,
    sources: Mapping[str, ModelSource],
    taken: Mapping[str, str],
    tables: Mapping[str, ModelTable],
) -> str | None:
    if not _ALIAS.fullmatch(alias):
        return f"{alias!r} is no name a client could ask for: {_LETTERS}, and * for any text"
    if alias == model:
        return f"{alias!r} is the model's own name"
    if alias in sources and alias in tables and model in tables[alias].aliases:
        return f"{model!r} and {alias!r} are models, and each is an alias of the other"
    if alias in sources:
        return f"the alias {alias!r} of {model!r} would hide the model {alias!r}"
    if alias in taken:
        twice = taken[alias] == model
        return (
            f"{alias!r} stands here twice"
            if twice
            else f"{alias!r} is an alias of {taken[alias]!r} and of {model!r}"
        )
    return None


def _fits(pattern: str, name: str) -> bool:
    """Without backtracking: the parts between the stars are looked for from left to right."""
    first, *parts = pattern.split("*")
    last = parts.pop()
    if len(name) < len(first) + len(last) or not (name.startswith(first) and name.endswith(last)):
        return False
    middle = name[len(first) : len(name) - len(last)]
    for part in parts:
        found = middle.find(part)
        if found < 0:
            return False
        middle = middle[found + len(part) :]
    return True


def _letters(pattern: str) -> int:
    return len(pattern) - pattern.count("*")
