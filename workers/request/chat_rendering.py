"""A conversation through the model's own chat template, as the template was found to demand it.

Rule 1: a history that is refused as it was fitted is tried once more with one system message and alternating turns.
Rule 2: what clients write cannot become special tokens; see ``literal_text``.
Rule 3: an error has the template's own words and none of the prompt's.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from shared.errors import InvalidRequest
from shared.protocol import ChatPrompt
from workers.chat_template.analysis import TemplateAnalysis
from workers.chat_template.demands import Demands
from workers.chat_template.environment import Raised, Rendering
from workers.chat_template.normalize import normalize
from workers.chat_template.switches import heard
from workers.output.text import well_formed
from workers.request.literal_text import LiteralSpecials
from workers.request.tools_in_prose import in_plain_words

SAID = 200  # characters of a template's own words that a client is told
SHORT = 12  # characters that such words and a message may have alike
CONTINUED = "\ue1c0"  # where the answer goes on; of Unicode's private use area

Json = Any


@dataclass(frozen=True)
class ChatRendering:
    """``native``: tools and calls go to the template as they are; else they are told in our words.

    ``literals`` None: clients may write special tokens. ``said``: special tokens that an assistant may have said.
    """

    tokenizer: Any
    analysis: TemplateAnalysis
    native: bool
    literals: LiteralSpecials | None = None
    said: Collection[str] = ()

    def __call__(self, prompt: ChatPrompt) -> str:
        """Renders a chat, with marks in text that would be read as special tokens. Raises InvalidRequest."""
        demands = self.analysis.demands if self.native else replace(self.analysis.demands, calls="dropped")
        strict = replace(
            demands, late="refused", second="refused", users="refused", assistants="refused", thoughts=""
        )
        first = self._try(prompt, demands)
        if isinstance(first, str):
            return first
        second = self._try(prompt, strict)
        if isinstance(second, str):
            return second
        words = _words_of(second, prompt)
        raise InvalidRequest(f"This model's chat template refuses these messages{words}.", param=prompt.param)

    def _try(self, prompt: ChatPrompt, demands: Demands) -> str | Raised:
        try:
            shown = self._shown(prompt, demands)
        except RecursionError:
            raise InvalidRequest("The messages are nested too deep.", param=prompt.param) from None
        text = self._rendered(shown)
        return well_formed(text) if isinstance(text, str) else text

    def _shown(self, prompt: ChatPrompt, demands: Demands) -> ChatPrompt:
        """The prompt with messages and tools as the template takes them."""
        fitted = normalize(prompt.messages, prompt.tools, demands)
        messages, tools, more = (
            fitted.messages,
            fitted.tools,
            heard(prompt.template_kwargs, self.analysis.switches),
        )
        if self.literals is not None:
            messages = self.literals.escaped_messages(messages, self.said)
            tools, more = self.literals.escaped(tools), self.literals.escaped(more)
        shown = prompt.model_copy(update={"messages": messages, "tools": tools, "template_kwargs": more})
        if self.native:
            return shown
        told = in_plain_words(shown)
        again = normalize(told.messages, None, demands)
        return told.model_copy(update={"messages": again.messages, "tools": again.tools})

    def _rendered(self, prompt: ChatPrompt) -> str | Raised:
        last = prompt.messages[-1] if prompt.messages else {}
        if last.get("role") != "assistant" or last.get("tool_calls"):
            return self._apply(prompt, prompt.messages, prompt=True)
        content = last.get("content")
        if not isinstance(content, str):
            return self._apply(prompt, prompt.messages, prompt=False)
        marked = [*prompt.messages[:-1], {**last, "content": content + CONTINUED}]
        text = self._apply(prompt, marked, prompt=False)
        if isinstance(text, str) and CONTINUED in text:
            return text[: text.rindex(CONTINUED)]
        # A template that drops the words, such as past thinking: they stand behind what opens an answer.
        opened = self._apply(prompt, prompt.messages[:-1], prompt=True)
        return opened + content if isinstance(opened, str) else opened

    def _apply(self, chat: ChatPrompt, messages: list[dict[str, Json]], *, prompt: bool) -> str | Raised:
        render = _renderer(self.tokenizer)
        return render(messages, chat.tools, prompt, chat.template_kwargs)


Render = Callable[[list[dict[str, Json]], list[Json] | None, bool, dict[str, Json]], str | Raised]


def _renderer(tokenizer: Any) -> Render:
    """A template of the tokenizer's own is rendered here; one that is a program of mlx-lm's by that."""
    inner = getattr(tokenizer, "_tokenizer", tokenizer)
    template = getattr(inner, "chat_template", None)
    if getattr(tokenizer, "_chat_template", None) is None and isinstance(template, str):
        rendering = _compiled(template, _frozen(getattr(inner, "special_tokens_map", {})))
        return lambda messages, tools, prompt, more: rendering.render(messages, tools, prompt=prompt, **more)

    def apply(
        messages: list[dict[str, Json]], tools: Any, prompt: bool, more: dict[str, Json]
    ) -> str | Raised:
        try:
            text: str = tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=prompt, **more
            )
            return text
        except TemplateError as error:
            return Raised(type(error).__name__, str(error.message or ""))
        except Exception as error:  # noqa: BLE001 (a template is a program)
            return Raised(type(error).__name__)

    return apply


def _frozen(map: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (key, tuple(value) if isinstance(value, list) else value) for key, value in sorted(map.items())
    )


@lru_cache(maxsize=8)
def _compiled(template: str, variables: tuple[tuple[str, Any], ...]) -> Rendering:
    return Rendering(template, dict(variables), datetime.now)


def _words_of(raised: Raised, prompt: ChatPrompt) -> str:
    """What a template itself says of its refusal, as far as that is not the client's own words."""
    if not raised.words:
        return f" ({raised.kind})"
    said = raised.words[:SAID]
    for text in sorted(_strings_in([prompt.messages, prompt.tools]), key=len, reverse=True):
        # A word or two, like a role's name, may be the template's own.
        if len(text) > SHORT and (text[:SHORT] in said or text[-SHORT:] in said):
            return ""
    return f": {said}"


def _strings_in(value: Any) -> Iterator[str]:
    left = [value]
    while left:
        match left.pop():
            case str(text):
                yield text
            case dict(items):
                left += items.values()
            case list(items):
                left += items
