"""Texts cut into marks: whole tags, bracketed words, words, blanks and single characters.

Two marks are compared by such tokens and never by characters, because different tags share their first ``<``.
"""

import re
from collections.abc import Sequence

from workers.chat_template.call_format import COUNT_HOLE

_TOKEN = re.compile(r"<[^<>\s][^<>]*>|\[/?[A-Z][A-Z_]*\]|[A-Za-z0-9_▁]+|\s|.", re.DOTALL)
_DIGITS = re.compile(r"\d+")
_STRONG = re.compile(r"<[^<>\s][^<>]{2,}>|\[/?[A-Z][A-Z_]*\]")

Tokens = list[str]


def tokens_of(text: str) -> Tokens:
    return _TOKEN.findall(text)


def is_strong(token: str) -> bool:
    """Whether a mark by itself says what it is, unlike a word or a bracket."""
    return _STRONG.fullmatch(token) is not None


def common_prefix(a: Sequence[str], b: Sequence[str]) -> Tokens:
    """The common prefix of two token lists, with a hole for digits that differ."""
    found: Tokens = []
    for one, other in zip(a, b, strict=False):
        if (token := _merged(one, other)) is None:
            break
        found.append(token)
    return found


def common_suffix(a: Sequence[str], b: Sequence[str]) -> Tokens:
    return common_prefix(a[::-1], b[::-1])[::-1]


def _merged(one: str, other: str) -> str | None:
    if one == other:
        return one
    shape = _DIGITS.sub(COUNT_HOLE, one)
    return (
        shape
        if COUNT_HOLE in shape and shape == _DIGITS.sub(COUNT_HOLE, other.replace(COUNT_HOLE, "0"))
        else None
    )
