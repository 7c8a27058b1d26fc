"""What a change of the settings means for a running broker: which models come, go or are loaded anew, in lines. Pure.

Rule 1: only what can change while streams run does; each other setting that has changed is named, and needs a restart.
Rule 2: a model is loaded anew when something has changed that its worker reads.
"""

from collections.abc import Iterator

from broker.memory.decisions import GB
from broker.rules import UNBOUNDED, Changes, MemoryRules
from shared.model_table import ModelTable, replicas_of
from shared.settings import Settings

_OF_THE_BROKER = (
    "aliases",
    "pinned",
    "ttl",
    "replicas",
    "preload",
    "memory_gb",
    "concurrency",
)  # keys of a table that no worker reads
_LIVE = (
    "max_cache_size_gb",
    "min_stay",
    "max_wait",
    "ttl",
    "replicas",
    "spare_workers",
    "recycle_gb",
    "default_model",
)
_SAID_BY_MODEL = ("models", "available_models")


def memory_rules(settings: Settings, most: int = UNBOUNDED) -> MemoryRules:
    """``most``: bytes that this machine has for models."""
    tables = {model: settings.table(model) for model in settings.sources}
    own_workers = settings.worker_command == Settings.model_fields["worker_command"].default
    return MemoryRules(
        budget=min(int(settings.max_cache_size_gb * GB), most),
        lends=True,
        inspects=own_workers,
        spares=settings.spare_workers if own_workers else 0,
        pythons={model: str(table.python) for model, table in tables.items() if table.python},
        recycle=int(settings.recycle_gb * GB),
        min_stay=settings.min_stay,
        max_wait=settings.max_wait,
        said={
            model: int(table.memory_gb * GB)
            for model, table in tables.items()
            if table.memory_gb
            and not table.serve  # a hosted server's is the first guess, which its inspection tells
        },
        pinned=frozenset(model for model, table in tables.items() if table.pinned),
        ttl={model: _ttl(table, settings) for model, table in tables.items()},
        replicas={model: replicas_of(table.replicas or settings.replicas) for model, table in tables.items()},
        preload=tuple(model for model, table in tables.items() if table.preload),
        aliases={model: tuple(settings.registry.aliases_of(model)) for model in tables},
        hosted=frozenset(model for model, table in tables.items() if table.serve),
        concurrency={model: table.concurrency for model, table in tables.items() if table.serve},
    )


def changes(before: Settings, after: Settings, most: int = UNBOUNDED) -> Changes:
    again: list[str] = []
    lines = [*_come_and_gone(before, after)]
    for model in after.sources:
        if model in before.sources:
            lines += _differences(model, before, after, again)
    lines += _settings(before, after)
    return Changes(
        tuple(after.sources),
        memory_rules(after, most),
        tuple(again),
        tuple(lines) or ("nothing has changed",),
    )


def _ttl(table: ModelTable, settings: Settings) -> float:
    if table.pinned:
        return 0.0
    return settings.ttl if table.ttl is None else table.ttl


def _come_and_gone(before: Settings, after: Settings) -> Iterator[str]:
    for model in after.sources:
        if model not in before.sources:
            yield f"model {model!r} is new"
    for model in before.sources:
        if model not in after.sources:
            yield f"model {model!r} is gone; what it answers now is finished"


def _differences(model: str, before: Settings, after: Settings, again: list[str]) -> Iterator[str]:
    old, new = before.table(model), after.table(model)
    changed = [name for name in ModelTable.model_fields if getattr(old, name) != getattr(new, name)]
    for name in changed:
        yield f"model {model!r}: {name} is {_shown(getattr(new, name))}, was {_shown(getattr(old, name))}"
    moved = before.sources[model] != after.sources[model]
    if moved and "source" not in changed:
        yield f"model {model!r} comes from elsewhere"
    if moved or any(name not in _OF_THE_BROKER for name in changed):
        again.append(model)
        yield f"model {model!r} is loaded anew if it is in memory"


def _settings(before: Settings, after: Settings) -> Iterator[str]:
    for name in Settings.model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if old == new or name in _SAID_BY_MODEL:
            continue
        needs = "" if name in _LIVE else ", which needs a restart"
        yield f"{name} is {_shown(new)}, was {_shown(old)}{needs}"


def _shown(value: object) -> str:
    match value:
        case None:
            return "not said"
        case tuple():
            return ", ".join(map(str, value)) or "none"
        case ModelTable():
            return "a table"
        case _:
            return str(value)
