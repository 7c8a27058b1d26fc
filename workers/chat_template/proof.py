"""Proves a call format: what the template renders of awkward calls must be read as the same calls.

A probe is right, lost (the template does not show the value in any spelling), refused by the template, or wrong. A
format is native if a plain call is right and no core probe is wrong; all else that is not right is told as a limit.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from workers.chat_template.assistant_text import AssistantTurns
from workers.chat_template.call_format import HOLES, CallFormat
from workers.chat_template.environment import Json, Raised, Rendering
from workers.chat_template.format_search import FoundFormat, ids_for
from workers.chat_template.marks import is_strong, tokens_of
from workers.chat_template.probes import Probe, ProbeCall, probes, tools_for
from workers.chat_template.schemas import plain_tools
from workers.output.call_reader import CallReader

Verdict = Literal["right", "lost", "refused", "wrong"]


@dataclass(frozen=True)
class Proof:
    """Names of probes. ``core``: those of them without which a format is not native."""

    right: tuple[str, ...] = ()
    limits: dict[str, Verdict] = field(default_factory=dict)
    core: frozenset[str] = frozenset()

    @property
    def whole(self) -> bool:
        return not self.limits

    @property
    def proved(self) -> bool:
        """Whether all core probes are right."""
        return bool(self.right) and not self.core & set(self.limits)

    @property
    def native(self) -> bool:
        wrong = {name for name, verdict in self.limits.items() if verdict == "wrong"}
        return "plain" in self.right and not self.core & wrong


def prove(found: FoundFormat, rendering: Rendering) -> Proof:
    tried = [probe for probe in _probes(found.format) if len(probe.calls) == 1 or found.format.several]
    verdicts = {probe.name: _verdict(probe, found, rendering) for probe in tried}
    return Proof(
        right=tuple(name for name, verdict in verdicts.items() if verdict == "right"),
        limits={name: verdict for name, verdict in verdicts.items() if verdict != "right"},
        core=frozenset(probe.name for probe in tried if probe.core),
    )


def _probes(format: CallFormat) -> list[Probe]:
    closing = format.closing or format.outer[1]
    return probes(
        end_of_argument=_mark(format.after) or ",",
        end_of_call=_mark(closing) or "}",
        opening=_mark(format.outer[0] + format.opening) or "{",
        whole_end=_filled(format.after + closing + format.outer[1]) or "}}",
    )


def _mark(text: str) -> str:
    """Its first mark that says by itself what it is, else its first word."""
    tokens = [token for token in tokens_of(_filled(text)) if not token.isspace()]
    return next((token for token in tokens if is_strong(token)), tokens[0] if tokens else "")


def _filled(text: str) -> str:
    for hole in HOLES:
        text = text.replace(hole, "x")
    return text


def _verdict(probe: Probe, found: FoundFormat, rendering: Rendering) -> Verdict:
    tools = tools_for(*probe.calls)
    turns = AssistantTurns(rendering, tools, content=found.content, as_text=found.as_text)
    written = turns.calls(probe.calls, ids_for(probe.calls, found.ids), probe.text)
    if isinstance(written, Raised):
        turns = replace(turns, tools=plain_tools(tools))
        written = turns.calls(probe.calls, ids_for(probe.calls, found.ids), probe.text)
    if isinstance(written, Raised):
        return "refused"
    reader = CallReader(found.format, tools)
    read = reader.push(written.text) + reader.flush()
    calls = [ProbeCall(name, json.loads(arguments)) for name, arguments in read.calls]
    if _same(calls, probe.calls):
        return "right"
    shown = written.text
    return (
        "wrong"
        if all(_is_shown(value, shown) for call in probe.calls for value in _leaves(dict(call.arguments)))
        else "lost"
    )


def _same(calls: Sequence[ProbeCall], wanted: Sequence[ProbeCall]) -> bool:
    """Compares calls by value and type; the order of keys does not matter."""
    return [_exact(call) for call in calls] == [_exact(call) for call in wanted]


def _exact(call: ProbeCall) -> tuple[str, str]:
    return call.name, json.dumps(dict(call.arguments), sort_keys=True)


def _leaves(value: Json) -> Iterator[Json]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _is_shown(value: Json, text: str) -> bool:
    spellings = [
        str(value),
        repr(value),
        json.dumps(value),
        json.dumps(value, ensure_ascii=False),
        str(value).lower(),
    ]
    spellings += [each[1:-1] for each in spellings[1:4] if len(each) > 1]
    return any(spelling in text for spelling in spellings)
