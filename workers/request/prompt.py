"""A request's prompt as token ids: the chat template, the tokenizer, and the check against the context.

Runs on a thread of its own, beside the engine, so that a long prompt costs no decoding row a pause. All that can be
wrong with a request is found here, before the engine sees it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jinja2 import TemplateError

from shared.errors import ContextLengthExceeded, InvalidRequest
from shared.protocol import ChatPrompt, Generation, Run, Stopping, TextPrompt, TokenPrompt
from workers.grammars.grammar import Compiled, Grammars
from workers.job import Job
from workers.model.default_sampling import filled
from workers.output.reasoning import Thinking, thinking_of
from workers.output.text import characters_in, well_formed
from workers.output.tool_calls import Calling
from workers.output.tool_formats import PLAIN, Dialect
from workers.request.checkpoints import boundaries_of
from workers.request.encoding import Encoder
from workers.request.infill import Infill, behind, no_infill
from workers.request.tools_in_prose import in_plain_words

SAID = 200  # characters of a template's own words that a client is told
SHORT = 12  # characters that such words and a message may have alike
TAIL = 16  # ids at the prompt's end in which a mark that opens the thinking is looked for


@dataclass(frozen=True)
class Preparation:
    """``tokenizer`` is mlx-lm's wrapper of a Hugging Face tokenizer; ``vocabulary_size``: ids the model can read.

    ``special_tokens_in_text``: what clients write in messages may become special tokens.
    """

    tokenizer: Any
    context_length: int
    vocabulary_size: int
    grammars: Grammars | None = None  # None: with this tokenizer no text can be enforced
    dialect: Dialect = field(default_factory=Dialect)
    infill: Infill | None = None  # None: this tokenizer has no marks for it
    finds_boundaries: bool = False  # the model's caches serve whole beginnings only
    own_sampling: Mapping[str, float] = field(default_factory=dict)  # where a request does not say
    special_tokens_in_text: bool = False
    encoder: Encoder = field(init=False)

    def __post_init__(self) -> None:
        encoder = Encoder(self.tokenizer, self.context_length, self.vocabulary_size)
        object.__setattr__(self, "encoder", encoder)

    def __call__(self, run: Run) -> Job:
        """Raises InvalidRequest or ContextLengthExceeded."""
        submit = run.submit
        generation = filled(submit.generation, self.own_sampling)
        param = generation.prompt.param
        text, ids = self._tokenize(generation.prompt)
        ids = ids or self._nothing(param)
        for held in submit.held:
            self.encoder.check_ids(held, param, "What was held of the answer has")
        self.encoder.check_ids(generation.sampling.logit_bias, "logit_bias", "logit_bias names")
        thinking, calling = self._thinking(text, ids), self._calling(generation)
        split = thinking if generation.split_reasoning else None
        return Job(
            request_id=submit.request_id,
            attempt=submit.attempt,
            api=run.api,
            prompt=ids,
            generation=generation,
            max_tokens=self._max_tokens(len(ids), generation.stopping, param),
            held=submit.held,
            prompt_text=self._echo(generation, text, ids),
            grammar=self._grammar(generation, calling, split),
            thinking=split,
            calling=calling,
            boundaries=self._boundaries(generation.prompt, ids),
            ends=self._ends(generation),
            caller=submit.caller,
            group=submit.group,
        )

    def _ends(self, generation: Generation) -> frozenset[int]:
        asked = generation.stopping.stop_token_ids
        self.encoder.check_ids(asked, "stop_token_ids", "stop_token_ids has")
        fills_in = self.infill is not None and _fills_in(generation.prompt)
        return frozenset(asked) | (self.infill.ends if self.infill and fills_in else frozenset())

    def _nothing(self, param: str) -> list[int]:
        """What stands for a text of no tokens: the token that opens every text, where the tokenizer has one."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        if bos is None:
            raise InvalidRequest(
                "The prompt is empty, and this model has no token that begins a text: say something.",
                param=param,
            )
        self.encoder.check_ids([bos], param)
        return [bos]

    def _thinking(self, text: str | None, ids: list[int]) -> Thinking | None:
        if self.dialect.thinking is None:
            return None
        tail = self.tokenizer.decode(ids[-TAIL:]) if text is None else text
        return thinking_of(*self.dialect.thinking, tail)

    def _calling(self, generation: Generation) -> Calling | None:
        use, prompt = generation.tool_use, generation.prompt
        if use is None or not isinstance(prompt, ChatPrompt):
            return None
        family = self.dialect.family or PLAIN
        # A demand is met by one call: small models would go on repeating theirs.
        parallel = use.parallel and use.mode == "auto"
        return Calling(family, frozenset(use.names), prompt.tools or [], parallel)

    def _grammar(
        self, generation: Generation, calling: Calling | None, split: Thinking | None
    ) -> Compiled | None:
        """Of the text or the calls that must come. It begins behind the thinking, where that is split off."""
        must_call = calling is not None and generation.tool_use and generation.tool_use.mode == "required"
        if generation.grammar is None and not must_call:
            return None
        if self.grammars is None:
            raise InvalidRequest(
                "With this model's tokenizer no form can be enforced.",
                param=generation.grammar.param if generation.grammar and not must_call else "tool_choice",
            )
        if must_call:
            self.encoder.check_ids(
                self.dialect.special.values(), "tool_choice", "A call of this model's kind has"
            )
        text = None if must_call else generation.grammar
        matcher = self.grammars.matcher(text, calling, self.dialect.special)
        if split is None or split.over or not (split.open or self.dialect.think is not None):
            return Compiled(matcher, self.grammars.eos)
        unless = None if split.open else self.dialect.think
        return Compiled(matcher, self.grammars.eos, split.end.encode(), unless)

    def _tokenize(self, prompt: ChatPrompt | TextPrompt | TokenPrompt) -> tuple[str | None, list[int]]:
        """The prompt's text, if it came as text, and its ids."""
        encode = partial(self.encoder.encode, param=prompt.param)
        match prompt:
            case ChatPrompt():
                text = self._render(prompt)
                ids = self.encoder.encode_chat(text, prompt.param)
                return self.encoder.literals.unmarked(text), ids
            case TextPrompt(suffix=suffix):
                text = well_formed(prompt.text)
                if suffix is None:
                    return text, encode(text, opened=True)
                infill = self._infill()
                before = [*infill.begin, *encode(text)]
                return text, self._around(infill, before, suffix, prompt.param)
            case TokenPrompt(ids=ids, suffix=suffix):
                self.encoder.check_ids(ids, prompt.param)
                if suffix is None:
                    return None, ids
                return None, self._around(self._infill(), ids, suffix, prompt.param)

    def _around(self, infill: Infill, before: list[int], suffix: str, param: str) -> list[int]:
        after = behind(partial(self.encoder.encode, param=param), well_formed(suffix))
        self.encoder.check_ids([infill.prefix, infill.suffix, infill.middle], param)
        return infill.around(before, after)

    def _infill(self) -> Infill:
        if self.infill is None:
            raise no_infill()
        return self.infill

    def _render(self, prompt: ChatPrompt) -> str:
        """With marks in what would be special tokens and is not the template's; see ``literal``."""
        if not self.tokenizer.has_chat_template:
            raise InvalidRequest(
                "This model has no chat template; use /v1/completions with a prompt.", param=prompt.param
            )
        self.encoder.refuse_long(characters_in([prompt.messages, prompt.tools]), prompt.param)
        try:
            prompt = self._shown(prompt)
        except RecursionError:
            raise InvalidRequest("The messages are nested too deep.", param=prompt.param) from None
        try:
            return well_formed(self._apply(prompt.messages, prompt))
        except Exception:  # noqa: BLE001, S110 - a template is a program, and may raise what Python can
            # Those that demand one leading system message, or strict alternation, raise for others.
            pass
        try:
            return well_formed(self._apply(_alternating(prompt.messages), prompt))
        except Exception as error:  # noqa: BLE001
            raise InvalidRequest(
                f"This model's chat template refuses these messages{_words_of(error, prompt)}.",
                param=prompt.param,
            ) from None

    def _shown(self, prompt: ChatPrompt) -> ChatPrompt:
        """As the template gets it."""
        messages, tools, more = prompt.messages, prompt.tools, prompt.template_kwargs
        if self.dialect.family:
            messages = _parsed_arguments(messages)
        if not self.special_tokens_in_text:
            literals = self.encoder.literals
            messages = literals.marked_messages(messages, self.dialect.special)
            tools, more = literals.marked(tools), literals.marked(more)
        shown = prompt.model_copy(update={"messages": messages, "tools": tools, "template_kwargs": more})
        return shown if self.dialect.family else in_plain_words(shown)

    def _apply(self, messages: list[dict[str, Any]], prompt: ChatPrompt) -> str:
        continues = messages[-1]["role"] == "assistant"
        text: str = self.tokenizer.apply_chat_template(
            messages,
            tools=prompt.tools,
            tokenize=False,
            add_generation_prompt=not continues,
            continue_final_message=continues,
            **prompt.template_kwargs,
        )
        return text

    def _boundaries(self, prompt: ChatPrompt | TextPrompt | TokenPrompt, ids: list[int]) -> list[int]:
        if not (self.finds_boundaries and isinstance(prompt, ChatPrompt)):
            return []

        def encode(messages: list[dict[str, Any]]) -> list[int] | None:
            try:
                return self._tokenize(prompt.model_copy(update={"messages": messages}))[1]
            except InvalidRequest:
                return None

        return boundaries_of(ids, prompt.messages, encode)

    def _max_tokens(self, prompt_tokens: int, stopping: Stopping, param: str) -> int:
        room = self.context_length - prompt_tokens
        if room < (0 if stopping.max_tokens == 0 else 1):
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self.context_length} tokens. However, your prompt has "
                f"{prompt_tokens}, and the answer needs room too. Shorten the prompt.",
                param=param,
                prompt_tokens=prompt_tokens,
                context_length=self.context_length,
            )
        return room if stopping.max_tokens is None else min(room, stopping.max_tokens)

    def _echo(self, generation: Generation, text: str | None, ids: list[int]) -> str | None:
        if not generation.echo:
            return None
        decoded: str = self.tokenizer.decode(ids) if text is None else text
        return decoded


def _fills_in(prompt: ChatPrompt | TextPrompt | TokenPrompt) -> bool:
    return not isinstance(prompt, ChatPrompt) and prompt.suffix is not None


def _parsed_arguments(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Templates iterate over a call's arguments; clients send them as a JSON string."""
    return [
        {**message, "tool_calls": [_parsed_call(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _parsed_call(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    try:
        function["arguments"] = json.loads(function.get("arguments") or "{}")
    except (TypeError, ValueError, RecursionError):
        pass  # not JSON, or more than Python makes of it: the template gets the text as it is
    return {**call, "function": function}


def _alternating(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same words in one system message and alternating turns, for templates that accept nothing else."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system" and m.get("content"))
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "system":
            continue
        plain = message["role"] in ("user", "assistant") and not message.get("tool_calls")
        if plain and turns and turns[-1]["role"] == message["role"] and not turns[-1].get("tool_calls"):
            joined = "\n\n".join(filter(None, [turns[-1].get("content"), message.get("content")]))
            turns[-1] = {**turns[-1], "content": joined}
        else:
            turns.append(message)
    if system:
        turns.insert(0, {"role": "system", "content": system})
    return turns


def _words_of(error: Exception, prompt: ChatPrompt) -> str:
    """What a template itself says of its refusal, as far as that is not the client's own words."""
    if not isinstance(error, TemplateError) or not error.message:
        return f" ({type(error).__name__})"
    said = error.message[:SAID]
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
