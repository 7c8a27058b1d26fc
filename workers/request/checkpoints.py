"""Prompt lengths at which the prefix cache should store a checkpoint, because other chats share the prompt up to there.

Used for models whose caches can only be restored at stored lengths (sliding windows, recurrent layers). A checkpoint is
found by comparison: a chat that differs from a message on has the same ids up to that message, whatever the template
and the tokenizer do.
"""

from collections.abc import Callable, Sequence
from typing import Any

from workers.token_ids import as_ids, common_prefix

Messages = list[dict[str, Any]]

LEAST = 64  # tokens; a shorter prefix is cheap to prefill again
ANSWERED = ({"role": "assistant", "content": "~"}, {"role": "user", "content": "~"})
OTHERS = ("~", "#")  # contents of the compared chat; at least one begins unlike the message


def checkpoints_of(
    ids: Sequence[int], messages: Messages, encode: Callable[[Messages], Sequence[int] | None]
) -> list[int]:
    """Lengths behind the leading system messages and tools, before the last message, and where an answer begins.

    Ascending. The last is what the next turn has in common whatever the answer was: a template may leave its thinking
    out, or begin it otherwise than the prompt does.

    ``encode`` returns the ids of other messages, or None if the template refuses them.
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
    if (answered := encode([*messages, *ANSWERED])) is not None:
        found.add(common_prefix(as_ids(ids), as_ids(answered)))
    return sorted(length for length in found if LEAST <= length < len(ids) - 1)


def _unlike(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    other = next(each for each in OTHERS if not isinstance(content, str) or not content.startswith(each))
    return {"role": "user", "content": other}
