"""All that a chat template tells: how it shows tools and calls, what it demands, how the model thinks.

``analyse`` is pure and catches whatever a template raises, but not a template that never ends: run it in a process that
can be ended. The result travels as JSON.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from typing import Literal

from jinja2 import TemplateError
from pydantic import TypeAdapter

from workers.chat_template.call_format import CallFormat, Unknown
from workers.chat_template.demands import Demands, find_demands
from workers.chat_template.environment import Raised, Rendering
from workers.chat_template.families import completed, family_format
from workers.chat_template.format_search import FoundFormat, find_format
from workers.chat_template.probes import PLAIN, tools_for, user
from workers.chat_template.proof import Proof, Verdict, prove
from workers.chat_template.switches import State, Switch, find_switches
from workers.chat_template.thinking import ThinkingMarks, find_thinking
from workers.chat_template.turn_end import find_turn_ends

MOST = 1 << 20  # characters of a probe's rendering
VERSION = 3  # of what is derived; a kept analysis of another one is worth nothing

Tools = Literal["native", "described", "none"]
Source = Literal["template", "table", "ours"]


@dataclass(frozen=True)
class TemplateAnalysis:
    """``format``: None where calls are written in our own words. ``reason``: why, or why not all is proved.

    ``source``: who says how calls look. ``limits``: probes that were not read as they were rendered.
    ``turn_ends``: the added tokens that close an assistant's turn.
    """

    demands: Demands = field(default_factory=Demands)
    format: CallFormat | None = None
    source: Source = "ours"
    reason: str = ""
    limits: Mapping[str, Verdict] = field(default_factory=dict)
    proved: bool = False
    thinking: ThinkingMarks | None = None
    state: State = "free"
    switches: Mapping[str, Switch] = field(default_factory=dict)
    turn_ends: tuple[str, ...] = ()
    version: int = VERSION

    @property
    def tools(self) -> Tools:
        """native: shown and called as the model learned; described: by our words; none: no history can hold calls."""
        return "native" if self.format is not None and self.demands.shows_tools else "described"

    @property
    def content(self) -> Literal["text", "parts"]:
        return "parts" if self.demands.text != "kept" and self.demands.parts == "kept" else "text"


UNKNOWN = TemplateAnalysis(
    Demands(thoughts="reasoning_content", thoughts_shown=True), reason="it was not analysed"
)
"""The analysis of an unknown template, which gets a conversation unchanged."""


def analyse(template: str, added_tokens: Collection[str] = ()) -> TemplateAnalysis:
    """``added_tokens``: those of the tokenizer, where marks are looked for that the template does not show."""
    return _analyse(template, tuple(sorted(added_tokens)))


@lru_cache(maxsize=8)
def _analyse(template: str, added_tokens: tuple[str, ...]) -> TemplateAnalysis:
    rendering = Rendering(template, most=MOST)
    try:
        answers = [rendering.render([user()], tools, prompt=True) for tools in (None, [], tools_for(PLAIN))]
    except TemplateError as error:
        return replace(UNKNOWN, reason=f"the template cannot be parsed ({type(error).__name__})")
    if all(isinstance(answer, Raised) for answer in answers):
        return replace(UNKNOWN, reason="the template refuses a single message")
    found = find_format(rendering)
    if isinstance(found, FoundFormat):
        found = replace(found, format=completed(found.format, template, added_tokens))
    proof = Proof() if isinstance(found, Unknown) else prove(found, rendering)
    usable = found if isinstance(found, FoundFormat) and proof.native else None
    demands = find_demands(rendering, usable)
    thinking = find_thinking(rendering, demands, added_tokens)
    state, switches = find_switches(rendering, thinking)
    analysis = TemplateAnalysis(
        demands=demands,
        limits=proof.limits,
        thinking=thinking,
        state=state,
        switches=switches,
        turn_ends=find_turn_ends(rendering, added_tokens, thinking.close if thinking else ""),
    )
    if usable is not None:
        return replace(analysis, format=usable.format, source="template", proved=proof.proved)
    if isinstance(found, FoundFormat):
        return replace(analysis, reason="calls are not read as they are rendered")
    reason = found.reason
    if demands.shows_tools and (format := family_format(template, added_tokens)) is not None:
        format = completed(format, template, added_tokens)
        return replace(analysis, format=format, source="table", reason=reason)
    return replace(analysis, reason=reason)


def digest_of(template: str, added_tokens: Collection[str] = ()) -> str:
    """The key under which an analysis is cached."""
    return sha256(
        "\0".join([str(VERSION), template, *sorted(added_tokens)]).encode("utf-8", "replace")
    ).hexdigest()


_ADAPTER = TypeAdapter(TemplateAnalysis)


def to_json(analysis: TemplateAnalysis) -> str:
    return _ADAPTER.dump_json(analysis).decode()


def from_json(text: str) -> TemplateAnalysis | None:
    """None for one of another version. Raises ValueError."""
    analysis = _ADAPTER.validate_json(text)
    return analysis if analysis.version == VERSION else None
