"""Which models of an API's list may be asked for a chat: a command that was told none takes the only one."""

from collections.abc import Mapping
from typing import Any

from shared.models import EMBEDDED_EMBEDDER


def chat_models(listed: Any) -> list[str]:
    """Their ids, without aliases and what cannot be loaded. Raises what a dictionary or list of another form does.

    Of a model that was never loaded it is not known what it can do; it counts as a chat model, but for our embedder.
    """
    return [
        str(info["id"])
        for info in listed["data"]
        if not info.get("alias_of") and info.get("status") != "failed" and _may_chat(info)
    ]


def _may_chat(info: Mapping[str, Any]) -> bool:
    can = info.get("capabilities")
    if isinstance(can, dict) and can:
        kind, endpoints = can.get("kind", "chat"), can.get("endpoints", ())
        unknown = kind == "hosted" and not endpoints  # until its server was started
        return kind == "chat" or unknown or "chat" in endpoints
    return str(info["id"]) != EMBEDDED_EMBEDDER
