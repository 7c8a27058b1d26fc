"""``mlx-server load``, ``unload`` and ``reload``: orders to a running server, which the command waits for."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from cli import probe
from cli.refusal import nothing_answers, refuse, something_else_answers
from shared.settings import load_settings

PATIENCE = 3600.0  # seconds: a load may bring its model from the hub first
_DONE = {"load": "is loaded", "unload": "is unloaded", "reload": "is loaded anew"}
_BEGUN = {"load": "will be loaded", "unload": "will be unloaded", "reload": "will be loaded anew"}


def order(action: str, model: str, options: Mapping[str, Any], *, wait: bool, force: bool = False) -> int:
    """Returns the exit code."""
    settings = load_settings(**options)
    body = {"wait": wait, **({"force": True} if force else {})}
    path = f"/admin/models/{quote(model)}/{action}"
    answer = probe.post(settings, path, body, timeout=PATIENCE if wait else 10.0)
    if answer is None:
        return refuse(nothing_answers(settings))
    try:
        said = json.loads(answer.body)
        sentence = said["error"]["message"] if answer.status >= HTTPStatus.BAD_REQUEST else said["model"]
    except (ValueError, KeyError, TypeError):
        return refuse(something_else_answers(settings))
    if answer.status >= HTTPStatus.BAD_REQUEST:
        return refuse(sentence)
    print(f"{sentence} {(_DONE if said.get('done') else _BEGUN)[action]}.")
    return 0
