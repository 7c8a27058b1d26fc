"""Where in a chat's prompt it is worth keeping what was read: others will begin as it does up to there.

For models whose caches serve whole beginnings only (rotating, recurrent): of the others every beginning can be used.
A boundary is found by comparing: a chat that goes another way from there has the same ids until then, however the
template and the tokenizer put them together.
"""

from collections.abc import Callable, Sequence
from typing import Any

from workers.token_ids import as_ids, common_prefix

Messages = list[dict[str, Any]]

LEAST = 64  # tokens; less is soon read again
OTHERS = ("~", "#")  # what another chat says instead; one of them begins unlike the message


def boundaries_of(
    ids: Sequence[int], messages: Messages, encode: Callable[[Messages], Sequence[int] | None]
) -> list[int]:
    """Behind what leads the chat (system messages, tools), and before its last message; ascending.

    ``encode`` gives the ids of other messages, None when the template refuses them.
    """
    if len(ids) <= LEAST:
        return []
    leading = next(
        (i for i, message in enumerate(messages) if message["role"] not in ("system", "developer")), None
    )
    found = set()
    for start in {leading, len(messages) - 1} - {None}:
        assert start is not None
        other = encode([*messages[:start], _unlike(messages[start])])
        if other is not None:
            found.add(common_prefix(as_ids(ids), as_ids(other)))
    return sorted(length for length in found if LEAST <= length < len(ids) - 1)


def _unlike(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    other = next(each for each in OTHERS if not isinstance(content, str) or not content.startswith(each))
    return {"role": "user", "content": other}
