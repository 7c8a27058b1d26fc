"""``mlx-server show``: what the settings and a running server know of one model, but for folders of this machine."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from cli.refusal import refuse
from cli.status import known_report
from shared.errors import ModelNotFound
from shared.protocol import Capabilities, ModelStatus
from shared.settings import Settings, load_settings

_SOURCES = {
    "hub": "the hub",
    "folder": "a folder",
    "embedded": "this server's wheel",
    "hosted": "another server",
}
WEIGHTS = "weights"  # bytes


def show(name: str, options: Mapping[str, Any], *, as_json: bool) -> int:
    """Returns the exit code."""
    settings = load_settings(**options)
    model = settings.registry.resolve(name)
    if model is None:
        return refuse(ModelNotFound(name, settings.registry.names).message)
    facts = dict(_facts(settings, model, _known(settings, model)))
    if as_json:
        print(json.dumps(facts))
        return 0
    table = Table("", Column(overflow="fold"), box=None, show_header=False, pad_edge=False)
    for key, value in facts.items():
        table.add_row(key, _size(value) if key == WEIGHTS and value else _shown(value))
    Console(highlight=False, markup=False).print(table)
    return 0


def _known(settings: Settings, model: str) -> ModelStatus | None:
    report = known_report(settings)
    return next((known for known in report.models if known.id == model), None) if report else None


def _facts(settings: Settings, model: str, known: ModelStatus | None) -> Iterator[tuple[str, Any]]:
    source, table = settings.sources[model], settings.table(model)
    yield "model", model
    yield "from", f"{_SOURCES[source.kind]}{f': {source.location}' if source.kind == 'hub' else ''}"
    yield "revision", source.revision
    yield "aliases", list(settings.registry.aliases_of(model))
    yield "pinned", table.pinned
    if known is None:
        yield "state", "no server answers"
        return
    yield "state", known.state
    yield "reason", known.reason
    if known.state == "downloading":
        yield "downloaded bytes", f"{known.done} of {known.total}"
    yield "on this disk", not known.absent
    yield "architecture", known.architecture
    yield WEIGHTS, known.weights or (known.capabilities.bytes if known.capabilities else 0)
    yield "context", known.context_length
    if known.capabilities:
        yield from _abilities(known.capabilities)


def _abilities(can: Capabilities) -> Iterator[tuple[str, Any]]:
    yield "kind", can.kind
    if can.kind == "chat":
        yield "tools", can.tools
        yield "messages", can.content
        yield "reasoning", can.reasoning
        yield "json schemas", can.json_schema
        yield "infill", can.infill
        yield "sampling", can.sampling
    elif can.kind == "hosted":
        yield "endpoints", can.endpoints
    else:
        yield "dimensions", can.dimensions
        yield "ranking", can.ranking


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case None | "" | [] | {} | 0:
            return "–"
        case list():
            return ", ".join(value)
        case dict():
            return ", ".join(f"{key} {one:g}" for key, one in value.items())
        case _:
            return str(value)
