"""Puts one model's name in place of another in a JSON text, and changes no other byte of it. Pure."""

import json
from collections.abc import Iterator, Sequence

_DECODER = json.JSONDecoder()
_SPACE = " \t\n\r"

PLACES: Sequence[tuple[str, ...]] = (("model",), ("response", "model"), ("message", "model"))
"""Where answers and events of the dialects have the model's name."""


def renamed(text: str, name: str, places: Sequence[tuple[str, ...]] = (("model",),)) -> str:
    """Raises ValueError where ``text`` is no JSON object; an object without the field is left as it is."""
    quoted = json.dumps(name)
    for start, end in sorted((span for path in places for span in _spans(text, path)), reverse=True):
        text = text[:start] + quoted + text[end:]
    return text


def named(text: str, name: str) -> str:
    """As ``renamed``, of a request, which gets the field if it has none."""
    if any(key == "model" for key, _, _ in _members(text, 0)):
        return renamed(text, name)
    brace = text.index("{") + 1
    comma = "" if text[_skip(text, brace)] == "}" else ", "
    return f'{text[:brace]}"model": {json.dumps(name)}{comma}{text[brace:]}'


def _spans(text: str, path: tuple[str, ...], at: int = 0) -> Iterator[tuple[int, int]]:
    """Of the texts at ``path``, each with its quotes; a field that stands twice has two."""
    for key, start, end in _members(text, at):
        if key != path[0]:
            continue
        if len(path) > 1:
            if text[start] == "{":
                yield from _spans(text, path[1:], start)
        elif text[start] == '"':
            yield start, end


def _members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """(key, begin and end of its value) of the object that begins at ``at``. Raises ValueError."""
    try:
        yield from _read_members(text, at)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _read_members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    at = _skip(text, at)
    if text[at : at + 1] != "{":
        raise ValueError("this is no JSON object")
    at = _skip(text, at + 1)
    while text[at : at + 1] == '"':
        key, at = _DECODER.raw_decode(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise ValueError("a key without a value")
        start = _skip(text, at + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield key, start, end
        at = _skip(text, end)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
    if text[at : at + 1] != "}":
        raise ValueError("an object without an end")


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
