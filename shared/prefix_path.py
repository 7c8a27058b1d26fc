"""Where a prompt may begin like an earlier one: a chain of hashes over its messages, by which requests find a worker.

Rule 1: a point stands for all of the prompt before it, and for whose prompts may share a prefix at all (its namespace).
Rule 2: chats have a point behind each message, raw prompts behind each block, but for what is too short to be worth it.
Rule 3: the points say nothing of the words: the broker reads them, and never the prompt.
"""

import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

from shared.generation import ChatPrompt, Generation, Prompt, TextPrompt, TokenPrompt

POINT = 8  # bytes
LEAST = 128  # bytes of a prompt before its first point
FIRST, LAST = 8, 56  # points that a long prompt has at its two ends
_BYTES, _IDS = 512, 128  # of a block of a raw prompt


def path_of(generation: Generation) -> bytes:
    """Its points, the shallowest first; first of all the one of its cache key, if it has any."""
    namespace = generation.cache_namespace
    key = [_hash(b"", _packed(["key", namespace, generation.cache_key]))] if generation.cache_key else []
    found = list(_points(namespace, generation.prompt))
    if len(found) > FIRST + LAST:
        found = [*found[:FIRST], *found[-LAST:]]
    return b"".join([*key, *found])


def points_of(path: bytes) -> list[bytes]:
    return [path[at : at + POINT] for at in range(0, len(path), POINT)]


def _points(namespace: str, prompt: Prompt) -> Iterator[bytes]:
    match prompt:
        case ChatPrompt(messages=messages, tools=tools, template_kwargs=kwargs):
            return _chain(_packed([namespace, "chat", tools, kwargs]), map(_packed, messages))
        case TextPrompt(text=text):
            return _chain(_packed([namespace, "text"]), _whole_blocks(_encoded(text), _BYTES))
        case TokenPrompt(ids=ids):
            return _chain(_packed([namespace, "tokens"]), map(_packed, _whole_blocks(ids, _IDS)))


def _chain(root: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    size, point = len(root), _hash(b"", root)
    for piece in pieces:
        size, point = size + len(piece), _hash(point, piece)
        if size >= LEAST:
            yield point


def _whole_blocks(content: Any, size: int) -> Iterator[Any]:
    return (content[at : at + size] for at in range(0, len(content) - size + 1, size))


def _hash(before: bytes, piece: bytes) -> bytes:
    return blake2b(before + piece, digest_size=POINT).digest()


def _packed(value: object) -> bytes:
    return _encoded(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str))


def _encoded(text: str) -> bytes:
    """Also of halves of characters, which clients may send."""
    return text.encode("utf-8", "surrogatepass")
