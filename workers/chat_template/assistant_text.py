"""What the model itself writes in a turn: a rendering without what stands before and behind it.

Before: the longest beginning shared with a rendering that ends there cleanly, which is a generation prompt or a turn of
plain text. Behind: what stands behind plain text, compared in whole marks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from workers.chat_template.environment import Json, Message, Raised, Rendering
from workers.chat_template.marks import common_suffix, tokens_of
from workers.chat_template.probes import CHAT, RESULT, TEXT, ProbeCall, assistant, calling, result

THINKS: tuple[Mapping[str, Json], ...] = (
    {},
    {"enable_thinking": True, "thinking": True},
    {"enable_thinking": False, "thinking": False},
)
Ids = Sequence[str]


@dataclass(frozen=True)
class Written:
    """``before``: the prompt and the turn's header; ``text``: what the model wrote; ``behind``: the rest."""

    before: str
    text: str
    behind: str


@dataclass(frozen=True)
class AssistantTurns:
    """Turns of an assistant behind one user message, with these tools offered.

    ``content``: beside calls without text; ``as_text``: arguments go to the template as JSON text.
    """

    rendering: Rendering
    tools: Sequence[Json]
    chat: Sequence[Message] = CHAT
    content: Json = ""
    as_text: bool = False

    def calls(self, calls: Sequence[ProbeCall], ids: Ids, text: str = "") -> Written | Raised:
        message = calling(calls, text or self.content, ids, self.as_text)
        names = [call.name for call in calls]
        found = self._written(message, names, [])
        if isinstance(found, Raised) or not any(call.name in found.text for call in calls):
            results = [result(id=ids[i], name=call.name) for i, call in enumerate(calls)]
            behind = self._written(message, names, results)
            if isinstance(behind, Written) and (isinstance(found, Raised) or _names(calls, behind)):
                return behind
        return found

    def _written(
        self, message: Message, names: Sequence[str], results: Sequence[Message]
    ) -> Written | Raised:
        whole = self.rendering.render([*self.chat, message, *results], self.tools)
        if isinstance(whole, Raised):
            return whole
        if results:
            whole = self._cut_before_result(whole)
        heads = [*self._headers]
        if names:
            marked = self.rendering.render([*self.chat, {**message, "content": TEXT}, *results], self.tools)
            head = marked.partition(TEXT)[0] if isinstance(marked, str) and TEXT in marked else ""
            if head and all(head.count(name) == self.plain_header.count(name) for name in names):
                heads.append(head)  # else the text stands behind the call
        before = max((head for head in heads if whole.startswith(head)), key=len, default=None)
        if before is None:
            before = _shared(whole, heads)
        rest = tokens_of(whole[len(before) :])
        tail = common_suffix(rest, tokens_of(self._tail))
        text = "".join(rest[: len(rest) - len(tail)])
        return Written(before, text, "".join(tail))

    @cached_property
    def _plain(self) -> str:
        rendered = self.rendering.render([*self.chat, assistant(TEXT)], self.tools)
        return rendered if isinstance(rendered, str) and TEXT in rendered else ""

    @cached_property
    def _tail(self) -> str:
        return self._plain.partition(TEXT)[2]

    @cached_property
    def _headers(self) -> list[str]:
        prompts = [
            self.rendering.render(self.chat, self.tools, prompt=True, **switches) for switches in THINKS
        ]
        heads = [prompt for prompt in prompts if isinstance(prompt, str)]
        return [*heads, self.plain_header] if self._plain else heads

    @cached_property
    def plain_header(self) -> str:
        return self._plain.partition(TEXT)[0]

    def _cut_before_result(self, whole: str) -> str:
        """The end of the turn is where its tail stands last before the result."""
        shown = whole.partition(RESULT)[0]
        ends = tokens_of(self._tail.strip())
        at = shown.rfind(ends[0]) if ends else -1
        return whole[: at + len(ends[0])] if at > 0 else shown


def _names(calls: Sequence[ProbeCall], written: Written) -> bool:
    return any(call.name in written.text for call in calls)


def _shared(whole: str, heads: Sequence[str]) -> str:
    best = 0
    for head in heads:
        size = 0
        for one, other in zip(tokens_of(whole), tokens_of(head), strict=False):
            if one != other:
                break
            size += len(one)
        best = max(best, size)
    return whole[:best]
