"""``mlx-server load``, ``unload`` and ``reload``: orders to a running server, which the command waits for."""

import json
import sys
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from cli import probe
from shared.commands import typed
from shared.settings import load_settings

FAILED = 1
PATIENCE = 3600.0  # seconds: a load may bring its model from the hub first
_DONE = {"load": "is loaded", "unload": "is unloaded", "reload": "is loaded anew"}
_BEGUN = {"load": "will be loaded", "unload": "will be unloaded", "reload": "will be loaded anew"}


def order(action: str, model: str, options: Mapping[str, Any], *, wait: bool, force: bool = False) -> int:
    """Returns the exit code."""
    settings = load_settings(**options)
    where = f"http://{probe.reachable(settings.host)}:{settings.port}"
    body = {"wait": wait, **({"force": True} if force else {})}
    path = f"/admin/models/{quote(model)}/{action}"
    patience, token = PATIENCE if wait else 10.0, probe.owner_token(settings)
    answer = probe.post(settings.host, settings.port, path, body, patience, token)
    if answer is None:
        return _refuse(f"Nothing answers at {where}. `{typed('mlx-server')} serve` starts a server.")
    try:
        said = json.loads(answer.body)
        sentence = said["error"]["message"] if answer.status >= HTTPStatus.BAD_REQUEST else said["model"]
    except (ValueError, KeyError, TypeError):
        return _refuse(f"What answers at {where} is not an mlx-server, or one of another version.")
    if answer.status >= HTTPStatus.BAD_REQUEST:
        return _refuse(sentence)
    print(f"{sentence} {(_DONE if said.get('done') else _BEGUN)[action]}.")
    return 0


def _refuse(sentence: str) -> int:
    print(f"mlx-server: {sentence}", file=sys.stderr)
    return FAILED
