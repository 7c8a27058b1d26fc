"""How tagged calls write values that are no plain words: types that are named, quotes, wrappers, nested values."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from workers.chat_template.assistant_text import AssistantTurns
from workers.chat_template.call_format import KEY_HOLE, NAME_HOLE, CallFormat, Values
from workers.chat_template.environment import Json, Raised
from workers.chat_template.marks import tokens_of
from workers.chat_template.probes import KEYS, NAME, ProbeCall, tools_for

Ids = Callable[[Sequence[ProbeCall]], Sequence[str]]
INNER, ITEM = "zqinnerq", "zqitemq"
SAMPLES: dict[str, Json] = {
    "number": 73519,
    "boolean": True,
    "null": None,
    "object": {INNER: 73519},
    "array": [73519, 73518],
}
AWKWARD = 'zq<zq>&"zq'
QUOTED = "zq'\\zq\"zq"


def with_values(found: CallFormat, turns: AssistantTurns, ids: Ids) -> CallFormat:
    keys: dict[str, str] = {}
    for kind, value in SAMPLES.items():
        if mark := _key_before(found, turns, ids, value):
            keys[kind] = mark
    number = keys.get("number", found.key)
    quotes = ("", "")
    if number != found.key and found.key.startswith(number):
        opened = found.key[len(number) :]
        closed = _quote_behind(found)
        quotes = (opened, closed)
        found = replace(found, key=number, after=found.after.removeprefix(closed))
        found = replace(found, escaped=QUOTED not in (_text(turns, ids, QUOTED) or ""))
    typed = {kind: mark for kind, mark in keys.items() if mark != found.key}
    values = _values(turns, ids)
    if typed and not _by_type(typed):
        typed = {}
    found = replace(found, key_by_type=typed, quotes=quotes, values=values)
    return replace(found, wrapper=_wrapper(found, turns, ids))


def _text(turns: AssistantTurns, ids: Ids, value: Json) -> str | None:
    call = ProbeCall(NAME, {KEYS[0]: value})
    turns = replace(turns, tools=tools_for(call))
    written = turns.calls([call], ids([call]))
    return (
        None
        if isinstance(written, Raised)
        else written.text.replace(NAME, NAME_HOLE).replace(KEYS[0], KEY_HOLE)
    )


def _key_before(found: CallFormat, turns: AssistantTurns, ids: Ids, value: Json) -> str | None:
    """What leads from the opening to the value; None where the value is not seen."""
    text = _text(turns, ids, value)
    head = tokens_of(found.outer[0] + found.opening)
    if text is None or (start := text.find(KEY_HOLE)) < 0:
        return None
    shown = [json.dumps(value), json.dumps(value, separators=(",", ":")), repr(value), *_scalar(value)]
    places = [place for each in shown if (place := text.rfind(each)) > start]
    if not places:
        return None
    tokens = tokens_of(text[: places[0]])
    return "".join(tokens[len(head) :])


def _scalar(value: Json) -> list[str]:
    return [] if isinstance(value, dict | list) else [str(value).lower(), str(value)]


def _quote_behind(found: CallFormat) -> str:
    """The closing quote: the first token behind the value, for quotes that open with one token."""
    tokens = tokens_of(found.after)
    return tokens[0] if tokens else ""


def _by_type(typed: dict[str, str]) -> bool:
    return all(KEY_HOLE in mark for mark in typed.values())


def _values(turns: AssistantTurns, ids: Ids) -> Values:
    text = _text(turns, ids, {INNER: [ITEM]})
    if text is None or INNER not in text:
        return "json"
    at = text.index(INNER)
    before, behind = text[:at][-1:], text[at + len(INNER) :][:1]
    if before == '"':
        return "json"
    if before == "'":
        return "python"
    return "tags" if behind == ">" else "loose"


def _wrapper(found: CallFormat, turns: AssistantTurns, ids: Ids) -> tuple[str, str]:
    text = _text(turns, ids, AWKWARD)
    if text is None or AWKWARD not in text or found.quotes != ("", ""):
        return ("", "")
    before, _, behind = text.partition(AWKWARD)
    head = found.outer[0] + found.opening + found.key
    tail = found.after + found.closing
    extra = "".join(tokens_of(before)[len(tokens_of(head)) :])
    end = behind.find(tail) if tail else -1
    return (extra, behind[:end]) if extra and end > 0 else ("", "")
