"""What a template demands of a conversation: asked by rendering one that breaks each rule, and looking for its words.

A conversation is kept (every word is in the prompt), dropped (words are missing, in silence) or refused (it raises).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from workers.chat_template.environment import Json, Message, Raised, Rendering
from workers.chat_template.format_search import FUNCTIONS_IDS, FoundFormat
from workers.chat_template.probes import (
    IDS,
    NAME,
    OTHER_NAME,
    PLAIN,
    RESULT,
    SYSTEM,
    TEXT,
    THOUGHT,
    USER,
    VALUES,
    ProbeCall,
    assistant,
    calling,
    result,
    system,
    tool,
    tools_for,
    user,
)

Outcome = Literal["kept", "dropped", "refused"]
Ids = Literal["any", "nine", "functions"]

LONG_ID, SHORT_ID = "call_" + "0a1b2c3d" * 3, "c_1"
OTHER, THIRD = ProbeCall(OTHER_NAME, {"zqkeycq": "zqvaluecq"}), "zqthirdq"
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
AWKWARD_SCHEMAS: tuple[Json, ...] = (
    {"type": "object", "properties": {"a": {"type": ["string", "null"], "description": ""}}},
    {"type": "object", "properties": {"a": {"type": "string"}}},
    {"type": "object", "properties": {"a": True, "b": {}}},
    {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
    {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}}}}},
    {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/x"}}},
        "$defs": {"x": {}},
    },
    {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}},
    {"type": "object", "properties": {"a": {"type": "string", "description": None}}},
    {"type": "object", "properties": {"a": {"type": "object", "additionalProperties": False}}},
    {"type": "object", "properties": {"a": {"type": "array", "items": [{"type": "string"}]}}},
    {"type": ["object", "null"], "properties": {}, "required": None},
    {},
)


@dataclass(frozen=True)
class Demands:
    """``shows_tools``: offered tools are in the prompt; ``calls``, ``results``: as the template's own turns.

    ``untold``: calls and results in a conversation that offers no tools. ``system``: at all; ``ending``: with a turn
    at the end that is no user's; ``late``: behind other turns; ``second``: more than one at the front. ``users``,
    ``assistants``: two in a row; ``leading``: an assistant first; ``alone``: a system message and no user; ``empty``:
    an answer of no words; ``behind_result``: a user right behind a tool's result; ``unanswered``: a call without a
    result. ``text``, ``parts``: a user's content as text or as parts. ``beside``: text in a turn that calls;
    ``several``: calls in one turn. ``nothing``: what stands for no content beside a call. ``as_text``: arguments as
    JSON text. ``thoughts``: the field that past thinking is read from, ``thoughts_shown``: whether it always gets
    into the prompt, ``thoughts_beside``: with text and calls in one turn, ``inline``: past thinking between its marks
    in the content. ``plain_schemas``: tools need the plainest ones; ``no_tools``: what stands for none.
    """

    shows_tools: bool = True
    calls: Outcome = "kept"
    results: Outcome = "kept"
    system: Outcome = "kept"
    late: Outcome = "kept"
    second: Outcome = "kept"
    users: Outcome = "kept"
    assistants: Outcome = "kept"
    leading: Outcome = "kept"
    ending: Outcome = "kept"
    alone: Outcome = "kept"
    empty: Outcome = "kept"
    untold: Outcome = "kept"
    behind_result: Outcome = "kept"
    unanswered: Outcome = "kept"
    text: Outcome = "kept"
    parts: Outcome = "refused"
    beside: Outcome = "kept"
    several: Outcome = "kept"
    nothing: str | None = ""
    as_text: bool = False
    ids: Ids = "any"
    thoughts: str = ""
    thoughts_shown: bool = False
    thoughts_beside: Outcome = "kept"
    inline: Outcome = "kept"
    plain_schemas: bool = False
    no_tools: tuple[()] | None = None


@dataclass(frozen=True)
class _Asking:
    rendering: Rendering
    tools: Sequence[Json] = field(default_factory=lambda: tools_for(PLAIN, OTHER))
    content: Json = ""
    as_text: bool = False
    ids: Sequence[str] = IDS
    no_tools: tuple[()] | None = None

    def outcome(self, messages: Sequence[Message], words: Iterable[str], *, tools: bool = False) -> Outcome:
        rendered = self.rendering.render(messages, self.tools if tools else self.no_tools, prompt=True)
        if isinstance(rendered, Raised):
            return "refused"
        return "kept" if all(word in rendered for word in words) else "dropped"

    def called(
        self, calls: Sequence[ProbeCall] = (PLAIN,), text: str = "", ids: Sequence[str] | None = None
    ) -> Message:
        return calling(calls, text or self.content, ids or self.ids, self.as_text)

    def answered(
        self, number: int = 0, content: str = RESULT, call: ProbeCall = PLAIN, id: str = ""
    ) -> Message:
        return result(content, id or self.ids[number], call.name)


def find_demands(rendering: Rendering, found: FoundFormat | None) -> Demands:
    """``found``: how the template writes calls, if it does."""
    refuses_none = isinstance(rendering.render([user()], None, prompt=True), Raised)
    asking = _Asking(rendering, no_tools=() if refuses_none else None)
    if found is not None:
        ids = IDS if found.ids != FUNCTIONS_IDS else (f"functions.{NAME}:0", f"functions.{OTHER_NAME}:1")
        asking = replace(asking, content=found.content, as_text=found.as_text, ids=ids)
    return Demands(
        **_of_turns(asking, found),
        **_of_calls(asking, found),
        shows_tools=asking.outcome([user()], [NAME, OTHER_NAME], tools=True) == "kept",
        no_tools=asking.no_tools,
        **_of_thoughts(asking),
        plain_schemas=any(_fails(rendering, each) for each in AWKWARD_SCHEMAS),
    )


def _of_turns(asking: _Asking, found: FoundFormat | None) -> dict[str, Json]:
    ask = asking.outcome

    def both(messages: Sequence[Message], words: Sequence[str]) -> Outcome:
        """With tools too, if the template takes them at all."""
        tools = ask([user()], [USER], tools=True) == "kept"
        return _worst(ask(messages, words), *([ask(messages, words, tools=True)] if tools else []))

    users = ask([user(), user(THIRD)], [USER, THIRD])
    # Where users alternate, one that stands between two of them parts them only for some templates.
    parted = [] if users == "kept" else [ask([user(), system(), user(THIRD)], [USER, SYSTEM, THIRD])]
    return {
        "system": ask([system(), user()], [SYSTEM, USER]),
        "late": _worst(
            ask([user(), assistant(), system(), user(THIRD)], [USER, TEXT, SYSTEM, THIRD]),
            ask([system(RESULT), user(), assistant(), system(), user()], [RESULT, USER, TEXT, SYSTEM]),
            *parted,
        ),
        "second": _worst(
            ask([system(), system(THIRD), user()], [SYSTEM, THIRD, USER]),
            ask([system(), system(THIRD), system(RESULT), user()], [SYSTEM, THIRD, RESULT, USER]),
        ),
        "users": users,
        "ending": _worst(
            ask([system(), user(), assistant()], [SYSTEM, USER, TEXT]),
            ask([system(), user(), asking.called(), asking.answered()], [SYSTEM, USER, RESULT], tools=True)
            if found
            else "kept",
        ),
        "alone": both([system()], [SYSTEM]),
        "empty": ask([user(), assistant(""), user(THIRD)], [USER, THIRD]),
        "assistants": ask([user(), assistant(), assistant(THIRD), user(RESULT)], [USER, TEXT, THIRD, RESULT]),
        "leading": _worst(
            both([assistant(), user()], [TEXT, USER]),
            both([asking.called(), asking.answered(), user()], [*VALUES, RESULT, USER]) if found else "kept",
        ),
        "inline": ask([user(), assistant(f"<think>{THOUGHT}</think>{TEXT}"), user(THIRD)], [THOUGHT]),
        "text": ask([user()], [USER]),
        "parts": _parts(asking),
    }


def _parts(asking: _Asking) -> Outcome:
    rendered = asking.rendering.render([user([{"type": "text", "text": USER}])], asking.no_tools, prompt=True)
    if isinstance(rendered, Raised):
        return "refused"
    return "kept" if USER in rendered and "'text'" not in rendered and '"text"' not in rendered else "dropped"


def _of_calls(asking: _Asking, found: FoundFormat | None) -> dict[str, Json]:
    def ask(*messages: Message, words: Sequence[str]) -> Outcome:
        return asking.outcome([user(), *messages], words, tools=True)

    if found is None:
        return {"calls": "dropped", "results": ask(asking.called(), asking.answered(), words=[RESULT])}
    called, answered, shown = asking.called(), asking.answered(), list(VALUES)
    both = asking.called([PLAIN, OTHER])
    second = asking.answered(1, THIRD, OTHER)
    nine = _worst(
        *(ask(asking.called(ids=[id]), asking.answered(id=id), words=[RESULT]) for id in (LONG_ID, SHORT_ID))
    )
    return {
        "results": ask(called, answered, words=[RESULT, *shown]),
        "behind_result": ask(called, answered, user(THIRD), words=[RESULT, THIRD, *shown]),
        "unanswered": _worst(
            ask(called, assistant(), user(THIRD), words=[THIRD, TEXT, *shown]),
            ask(called, user(THIRD), words=[THIRD, *shown]),
        ),
        "beside": _worst(
            ask(asking.called(text=TEXT), answered, words=[TEXT, RESULT, *shown]),
            ask(asking.called(text=TEXT), answered, assistant(THIRD), words=[TEXT, RESULT, THIRD, *shown]),
            ask(
                called, answered, asking.called([OTHER], text=TEXT, ids=asking.ids[1:]), second, words=[TEXT]
            ),
        ),
        "untold": asking.outcome([user(), called, answered], [RESULT, *shown]),
        "several": ask(both, answered, second, words=[*shown, "zqvaluecq", RESULT, THIRD]),
        "nothing": found.content,
        "as_text": found.as_text,
        "ids": "functions" if found.ids else "nine" if nine == "refused" else "any",
    }


def _worst(*outcomes: Outcome) -> Outcome:
    return next((bad for bad in ("refused", "dropped") if bad in outcomes), "kept")


def _of_thoughts(asking: _Asking) -> dict[str, Json]:
    """Finds where the template shows thinking: in an answer, in a tool loop, after one, before a later user turn."""
    for name in THOUGHTS:
        thinks = {name: THOUGHT}
        looped = [user(), {**asking.called(), **thinks}, asking.answered()]
        turns = [
            [user(), assistant(**thinks)],
            looped,
            [*looped, assistant()],
            [user(), assistant(**thinks), user(THIRD)],
        ]
        shown = [
            asking.outcome(messages, [THOUGHT], tools=tools) == "kept"
            for messages in turns
            for tools in (True, False)
        ]
        if any(shown) or any(_shown_by_switch(asking, messages) for messages in turns):
            both = [user(), {**asking.called(text=TEXT), **thinks}, asking.answered()]
            beside = asking.outcome(both, [RESULT], tools=True)
            return {"thoughts": name, "thoughts_shown": all(shown), "thoughts_beside": beside}
    return {}


def _shown_by_switch(asking: _Asking, messages: Sequence[Message]) -> bool:
    rendered = asking.rendering.render(messages, asking.tools, enable_thinking=True, thinking=True)
    return isinstance(rendered, str) and THOUGHT in rendered


def _fails(rendering: Rendering, schema: Json) -> bool:
    described = tool(NAME, schema or {"type": "object", "properties": {}})
    if not schema:
        del described["function"]["parameters"], described["function"]["description"]
    return isinstance(rendering.render([user()], [described], prompt=True), Raised)
