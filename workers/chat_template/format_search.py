"""Finds how a template writes calls: renders a few and looks where their names, keys and values stand.

JSON is tried first, because its values say themselves where they end. What is no JSON is read as marks around
sentinels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from workers.chat_template.assistant_text import AssistantTurns, Written
from workers.chat_template.call_format import (
    BODY_HOLE,
    ID_HOLE,
    KEY_HOLE,
    NAME_HOLE,
    VALUE_HOLE,
    CallFormat,
    Path,
    Unknown,
)
from workers.chat_template.environment import Json, Raised, Rendering
from workers.chat_template.marks import Tokens, common_prefix, common_suffix, tokens_of
from workers.chat_template.probes import IDS, KEYS, NAME, OTHER_NAME, PLAIN, VALUES, ProbeCall, tools_for
from workers.chat_template.value_search import with_values
from workers.output.almost_json import parse_at

FUNCTIONS_IDS = "functions.{name}:{count}"  # Kimi's; its templates show the name by the id alone


@dataclass(frozen=True)
class FoundFormat:
    """``ids``: the form that past calls' ids must have, if they are all that shows a call's name.

    ``content`` and ``as_text``: what stands beside calls and how arguments go in, so that the template shows the call.
    """

    format: CallFormat
    ids: str = ""
    content: Json = ""
    as_text: bool = False


def find_format(rendering: Rendering) -> FoundFormat | Unknown:
    tools = tools_for(PLAIN, ProbeCall(OTHER_NAME, PLAIN.arguments))
    best: tuple[AssistantTurns, Written, str] | None = None
    reason = "the template does not show past calls"
    for as_text, content in product((False, True), ("", None)):
        turns = AssistantTurns(rendering, tools, content=content, as_text=as_text)
        shown = _shown(turns)
        if isinstance(shown, Unknown):
            reason = shown.reason
        elif best is None or (len(shown[1].text) < len(best[1].text) and best[0].as_text == as_text):
            best = (turns, shown[1], shown[0])
    if best is None:
        return Unknown(reason)
    search = _Search(*best)
    found = search.json() or search.tagged()
    if isinstance(found, CallFormat) and {VALUE_HOLE, BODY_HOLE} & set("".join(found.marks)):
        return Unknown("the template shows a call's arguments more than once")
    turns = search.turns
    return (
        FoundFormat(found, search.ids, turns.content, turns.as_text)
        if isinstance(found, CallFormat)
        else found
    )


def _shown(turns: AssistantTurns) -> tuple[str, Written] | Unknown:
    """A call as it is written, and the form of ids that shows its name."""
    written, form = turns.calls([PLAIN], IDS), ""
    if isinstance(written, Written) and NAME not in written.text and IDS[0] in written.text:
        form = FUNCTIONS_IDS
        written = turns.calls([PLAIN], ids_for([PLAIN], form))
    if isinstance(written, Raised):
        return Unknown(f"the template refuses a call ({written.kind})")
    if NAME not in written.text:
        return Unknown("the template does not show past calls")
    return form, written


def ids_for(calls: Sequence[ProbeCall], form: str, first: int = 0) -> Sequence[str]:
    if not form:
        return IDS[first:]
    return [form.format(name=call.name, count=first + i) for i, call in enumerate(calls)]


@dataclass(frozen=True)
class _Search:
    turns: AssistantTurns
    one: Written
    ids: str

    def json(self) -> CallFormat | None:
        for start, end, value in _json_values(self.one.text):
            if isinstance(value, list) and _path(value, NAME) is not None:
                return self._list(start, end, value)
            if isinstance(value, dict):
                named = _object_paths(value)
                if named is not None:
                    return self._around(named, start, end)
                if value == PLAIN.arguments:
                    return self._around(CallFormat("name_json", arguments=()), start, end)
        return None

    def _list(self, start: int, end: int, value: list[Json]) -> CallFormat | None:
        call = next((each for each in value if isinstance(each, dict)), {})
        if (named := _object_paths(call)) is None:
            return None
        outer = (_holes(self.one.text[:start]), _holes(self.one.text[end:]))
        several = self._two() is not None
        return replace(named, kind="json_list", outer=outer, several=several)

    def _around(self, found: CallFormat, start: int, end: int) -> CallFormat | None:
        head, tail = _holes(self.one.text[:start]), _holes(self.one.text[end:])
        if found.kind == "name_json" and NAME_HOLE not in head:
            return None
        return self._with_marks(found, tokens_of(head), tokens_of(tail), self._two(bodies=True))

    def tagged(self) -> CallFormat | Unknown:
        text = self.one.text
        if any(word not in text for word in (*KEYS, *VALUES)):
            return Unknown("the template does not show a call's arguments")
        parts = _holes(text).split(VALUE_HOLE)
        if len(parts) != 3:
            return Unknown("the template shows a call's arguments more than once")
        head, middle, tail = map(tokens_of, parts)
        key = common_suffix(head, middle)
        if KEY_HOLE not in "".join(key) or NAME_HOLE not in "".join(head):
            return Unknown("keys and values stand in no order that is known")
        rest = middle[: len(middle) - len(key)]
        after = common_prefix(rest, tail)
        found = CallFormat(
            "tagged", key="".join(key), after="".join(after), comma="".join(rest[len(after) :])
        )
        single = self._with_marks(found, head, tail, self._two())
        opening = single.opening.removesuffix(found.key)
        if opening == single.opening or not single.closing.startswith(found.after):
            return Unknown("the marks of one call and of two do not agree")
        single = replace(single, opening=opening, closing=single.closing.removeprefix(found.after))
        return with_values(single, self.turns, lambda calls: ids_for(calls, self.ids))

    def _with_marks(
        self, found: CallFormat, head: Tokens, tail: Tokens, between: Tokens | None
    ) -> CallFormat:
        """``between``: what stands from the body of a call to that of the next one."""
        if between is None:
            return replace(found, opening="".join(head), closing="".join(tail), several=False)
        opening = common_suffix(head, between)
        rest = between[: len(between) - len(opening)]
        closing = common_prefix(rest, tail)
        return replace(
            found,
            opening="".join(opening),
            closing="".join(closing),
            between="".join(rest[len(closing) :]),
            outer=(
                "".join(head[: len(head) - len(opening)]),
                "".join(tail[len(closing) :]),
            ),
        )

    def _two(self, bodies: bool = False) -> Tokens | None:
        """What stands between two calls, from value to value or from body to body; None if they are not both shown."""
        first, second = ProbeCall(NAME, {KEYS[0]: VALUES[0]}), ProbeCall(OTHER_NAME, {KEYS[0]: VALUES[1]})
        written = self.turns.calls([first, second], ids_for([first, second], self.ids))
        if isinstance(written, Raised) or any(
            word not in written.text for word in (NAME, OTHER_NAME, *VALUES)
        ):
            return None
        text = _bodies(written.text, [first, second]) if bodies else _holes(written.text)
        parts = text.split(BODY_HOLE if bodies else VALUE_HOLE)
        return tokens_of(_holes(parts[1])) if len(parts) == 3 else None


def _holes(text: str) -> str:
    words = [(NAME, NAME_HOLE), (OTHER_NAME, NAME_HOLE), *((id, ID_HOLE) for id in IDS)]
    words += [*((key, KEY_HOLE) for key in KEYS), *((value, VALUE_HOLE) for value in VALUES)]
    for word, hole in words:
        text = text.replace(word, hole)
    return text


def _bodies(text: str, calls: Sequence[ProbeCall]) -> str:
    """Replaces each JSON value that is a call's object or its arguments with a hole."""
    arguments = [dict(call.arguments) for call in calls]
    done, at = "", 0
    for start, end, value in _json_values(text):
        if start >= at and isinstance(value, dict) and (value in arguments or _mentions(value)):
            done, at = done + text[at:start] + BODY_HOLE, end
    return done + text[at:]


def _mentions(value: dict[str, Json]) -> bool:
    return (
        _path(value, NAME) is not None
        or _path(value, OTHER_NAME) is not None
        or NAME in value
        or OTHER_NAME in value
    )


def _json_values(text: str) -> Iterator[tuple[int, int, Json]]:
    for start, character in enumerate(text):
        if character in "{[":
            try:
                value, end = parse_at(text, start)
            except ValueError:
                continue
            yield start, end, value


def _object_paths(value: dict[str, Json]) -> CallFormat | None:
    """How a call's object holds its name and arguments."""
    arguments = dict(PLAIN.arguments)
    if value.get(NAME) == arguments:
        return CallFormat("json", name_is_key=True, name=(), arguments=())
    name, id = _path(value, NAME), _path(value, IDS[0])
    if name is None:
        return None
    if (at := _path(value, arguments)) is not None:
        return CallFormat("json", name=name, arguments=at, id=id)
    for path, text in _strings(value):
        if path != name and KEYS[0] in text:
            return CallFormat("json", name=name, arguments=path, id=id, arguments_as_text=True)
    return None


def _path(value: Json, wanted: Json) -> Path | None:
    if value == wanted:
        return ()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        if (found := _path(each, wanted)) is not None:
            return (key, *found)
    return None


def _strings(value: Json) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield (), value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from (((key, *path), text) for path, text in _strings(each))
