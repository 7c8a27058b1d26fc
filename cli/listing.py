"""``mlx-server list``: the models that may be asked for, with what a running server knows of them."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from cli import probe
from shared.protocol import ModelStatus, StatusReport
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
        "kind": can.kind if can else "",
        "state": state.state if state else "",
        "aliases": list(settings.registry.aliases_of(model)),
    }


def _known(settings: Settings) -> dict[str, ModelStatus]:
    token = probe.owner_token(settings)
    answer = probe.get(settings.host, settings.port, "/admin/status", timeout=2.0, token=token)
    if answer is None or answer.status != HTTPStatus.OK:
        return {}
    try:
        report = StatusReport.model_validate({"query": "", **json.loads(answer.body)})
    except (ValueError, TypeError, ValidationError):
        return {}
    return {model.id: model for model in report.models}
