"""``mlx-server list``: the models that may be asked for, with what a running server knows of them."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from cli.status import known_report
from shared.protocol import ModelStatus
from shared.settings import Settings, load_settings


def listing(options: Mapping[str, Any], *, as_json: bool) -> int:
    """Returns the exit code. The models are a running server's, else those of the settings."""
    settings = load_settings(**options)
    known = _known(settings)
    rows = [_row(settings, model, known.get(model)) for model in (known or settings.sources)]
    if as_json:
        print(json.dumps(rows))
        return 0
    table = Table(
        *(Column(name, overflow="fold") for name in ("model", "kind", "state", "aliases")), box=None
    )
    for row in rows:
        table.add_row(row["id"], row["kind"], row["state"], ", ".join(row["aliases"]))
    Console(highlight=False, markup=False).print(table)
    return 0


def _row(settings: Settings, model: str, state: ModelStatus | None) -> dict[str, Any]:
    can = state.capabilities if state else None
    return {
        "id": model,
        "kind": "hosted" if settings.sources[model].kind == "hosted" else can.kind if can else "",
        "state": state.state if state else "",
        "aliases": list(settings.registry.aliases_of(model)),
    }


def _known(settings: Settings) -> dict[str, ModelStatus]:
    report = known_report(settings)
    return {model.id: model for model in report.models} if report else {}
