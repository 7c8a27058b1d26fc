"""What opens and closes a model's thinking, found in its template.

Looked for in this order, the best evidence first: past thinking that the template renders, a generation prompt that
ends in a mark, an answer whose text before a mark is cut off, and marks that are only named.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from workers.chat_template.assistant_text import AssistantTurns
from workers.chat_template.demands import Demands
from workers.chat_template.environment import Json, Rendering
from workers.chat_template.marks import is_strong, tokens_of
from workers.chat_template.probes import (
    NAME,
    PLAIN,
    TEXT,
    THOUGHT,
    assistant,
    calling,
    system,
    tools_for,
    user,
)

Evidence = Literal["rendered", "prompt", "split", "vocabulary"]
ON: Mapping[str, Json] = {"enable_thinking": True, "thinking": True}
PAIRS = (
    *(("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>")),
    *(("<seed:think>", "</seed:think>"), ("<mm:think>", "</mm:think>"), ("<thinking>", "</thinking>")),
    *(("◁think▷", "◁/think▷"), ("<|inner_prefix|>", "<|inner_suffix|>"), ("<|think|>", "<|/think|>")),
    *(("<thought>", "</thought>"), ("<reasoning>", "</reasoning>"), ("<|think_start|>", "<|think_end|>")),
)
_RESPONSE = ("<response>", "</response>")  # around the answer, of Granite and ERNIE
_CLOSING = re.compile(r"</[\w:]*(?:think|thought|reason)[\w:]*>|\[/THINK\]")


@dataclass(frozen=True)
class ThinkingMarks:
    """``answer``, ``answer_end``: what opens and closes the answer behind the thinking, where that is marked too."""

    open: str
    close: str
    answer: str = ""
    evidence: Evidence = "rendered"
    answer_end: str = ""


def find_thinking(
    rendering: Rendering, demands: Demands, added_tokens: Collection[str] = ()
) -> ThinkingMarks | None:
    return (
        _rendered(rendering, demands.thoughts)
        or _from_prompt(rendering)
        or _split(rendering)
        or _named(rendering.template, set(added_tokens))
    )


def _named(template: str, words: Collection[str]) -> ThinkingMarks | None:
    """Marks that are tokens of the vocabulary, or that the template speaks of."""
    for pair in PAIRS:
        if set(pair) <= set(words) or all(mark in template for mark in pair):
            answer = _RESPONSE if all(mark in template for mark in _RESPONSE) else ("", "")
            return ThinkingMarks(*pair, answer[0], "vocabulary", answer[1])
    return None


def _rendered(rendering: Rendering, name: str) -> ThinkingMarks | None:
    """The marks in a turn whose thinking stands before its text, or before a call."""
    parts = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": TEXT}]
    turns = [(assistant(parts), TEXT)]
    if name:
        thinks: dict[str, Json] = {name: THOUGHT}
        turns = [(assistant(**thinks), TEXT), (calling([PLAIN], **thinks), NAME), *turns]
    for (message, behind), tools in product(turns, (None, tools_for(PLAIN))):
        for switches in ({}, ON):
            whole = rendering.render([user(), message], tools, **switches)
            if (
                isinstance(whole, str)
                and "'thinking'" not in whole
                and (marks := _around(rendering, tools, whole, behind))
            ):
                return marks
    return None


def _around(
    rendering: Rendering, tools: Sequence[Json] | None, whole: str, answer: str
) -> ThinkingMarks | None:
    before, found, rest = whole.partition(THOUGHT)
    if not found or answer not in rest:
        return None
    between = rest.partition(answer)[0]
    close_tokens = [token for token in tokens_of(between) if not token.isspace()]
    opened = _mirrored(before, close_tokens) or _opened(rendering, tools, before).strip()
    close = _close(close_tokens, tokens_of(opened))
    if not opened or not close:
        return None
    opens = between.strip().removeprefix(close).strip() if answer == TEXT else ""
    return ThinkingMarks(opened, close, opens, answer_end=_closing_of(opens, rest.partition(answer)[2]))


def _mirrored(before: str, close: Sequence[str]) -> str:
    """An opening mark of several tokens that has the same words as the one that closes."""
    tokens = [token for token in tokens_of(before[-200:]) if not token.isspace()]
    for size in (4, 3, 2):
        opened = tokens[-size:]
        if (
            len(opened) == size
            and is_strong(opened[0])
            and opened[0] != close[0]
            and opened[1:] == list(close[1:size])
        ):
            return "".join(opened)
    return ""


def _closing_of(answer: str, behind: str) -> str:
    """What closes the answer: the words of its opening mark once more, or the tag with a slash."""
    opened = tokens_of(answer)
    if not opened:
        return ""
    tokens = tokens_of(behind.strip())
    closed = tokens[: len(opened)]
    if len(opened) > 1 and len(closed) == len(opened) and is_strong(closed[0]) and closed[1:] == opened[1:]:
        return "".join(closed)
    tag = opened[-1].replace("<", "</", 1)
    return tag if tokens and tokens[0] == tag else ""


def _opened(rendering: Rendering, tools: Sequence[Json] | None, before: str) -> str:
    """What leads from the header of an answer to its thinking; a header that holds the mark itself is shorter."""
    heads = [rendering.render([user()], tools, prompt=True, **switches) for switches in ({}, ON)]
    plain = AssistantTurns(rendering, list(tools or [])).plain_header
    shown = [head for head in (*heads, plain) if isinstance(head, str) and head and before.startswith(head)]
    for head in sorted(shown, key=len, reverse=True):
        if before[len(head) :].strip():
            return before[len(head) :]
    # The generation prompt ends with the mark.
    strong = [token for token in tokens_of(before) if is_strong(token)]
    return strong[-1] if strong and before.rstrip().endswith(strong[-1]) else ""


def _close(behind: Sequence[str], opened: Sequence[str]) -> str:
    """The first mark, and as much behind it as repeats the opening mark's words."""
    tokens = [token for token in behind if not token.isspace()]
    words = [token for token in opened if not token.isspace()]
    found: list[str] = []
    for token in tokens[: max(1, len(words))]:
        if found and token not in words:
            break
        found.append(token)
    return "".join(found) if found and any(is_strong(token) for token in found) else ""


def _from_prompt(rendering: Rendering) -> ThinkingMarks | None:
    for switches in ({}, ON):
        prompt = rendering.render([user()], None, prompt=True, **switches)
        if isinstance(prompt, str):
            for opened, closed in PAIRS:
                if prompt.rstrip().endswith((opened, closed)):
                    return ThinkingMarks(opened, closed, evidence="prompt")
    return None


def _split(rendering: Rendering) -> ThinkingMarks | None:
    """A past answer is cut at the mark that ended its thinking."""
    for close in dict.fromkeys(_candidates(rendering.template)):
        said = assistant(f"{THOUGHT}{close}{TEXT}")
        for lead in ([], [system()]):
            shown = rendering.render([*lead, user(), said, user()], None, prompt=True)
            if isinstance(shown, str) and TEXT in shown and THOUGHT not in shown:
                return ThinkingMarks(_opening_of(close), close, evidence="split")
    return None


def _candidates(template: str) -> Iterator[str]:
    yield from _CLOSING.findall(template)
    yield from (closed for _, closed in PAIRS if closed in template)


def _opening_of(close: str) -> str:
    return next((opened for opened, closed in PAIRS if closed == close), close.replace("/", "", 1))
