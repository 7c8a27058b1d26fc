"""Which models of an API's list a command takes for a chat."""

from typing import Any

import pytest

from cli.models.chat_models import chat_models
from shared.models import EMBEDDED_EMBEDDER


@pytest.mark.parametrize(
    ("info", "chats"),
    [
        ({"id": "never-loaded"}, True),
        ({"id": "chat", "capabilities": {"kind": "chat"}}, True),
        ({"id": "embedding", "capabilities": {"kind": "embedding"}}, False),
        ({"id": "hosted", "capabilities": {"kind": "hosted", "endpoints": ["chat", "messages"]}}, True),
        ({"id": "hosted-speech", "capabilities": {"kind": "hosted", "endpoints": ["audio/speech"]}}, False),
        ({"id": "alias", "alias_of": "chat"}, False),
        ({"id": "broken", "status": "failed"}, False),
        ({"id": EMBEDDED_EMBEDDER}, False),
    ],
)
def test_a_model_counts_as_a_chat_model_by_what_it_is_known_to_do(info: dict[str, Any], chats: bool) -> None:
    assert chat_models({"data": [info]}) == ([info["id"]] if chats else [])
