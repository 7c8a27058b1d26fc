"""A request's prompt as token ids: the chat template, the tokenizer, and the check against the context.

Runs on a thread of its own, beside the engine, so that a long prompt costs no decoding row a pause. All that can be
wrong with a request is found here, before the engine sees it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from shared.errors import ContextLengthExceeded, InvalidRequest
from shared.protocol import ChatPrompt, Generation, Run, Stopping, TextPrompt, TokenPrompt
from workers.boundaries import boundaries_of
from workers.calls import Calling
from workers.engine.seam import Job
from workers.families import PLAIN, Dialect
from workers.grammar import Compiled, Grammars
from workers.infill import Infill, behind, no_infill
from workers.plain import in_plain_words
from workers.reasoning import Thinking, thinking_of

_REFUSALS = (TemplateError, AttributeError, LookupError, TypeError, ValueError)  # of a template

TAIL = 16  # ids at the prompt's end in which a mark that opens the thinking is looked for


@dataclass(frozen=True)
class Preparation:
    """``tokenizer`` is mlx-lm's wrapper of a Hugging Face tokenizer; ``vocabulary_size`` is the model's."""

    tokenizer: Any
    context_length: int
    vocabulary_size: int
    grammars: Grammars | None = None  # None: with this tokenizer no text can be enforced
    dialect: Dialect = field(default_factory=Dialect)
    infill: Infill | None = None  # None: this tokenizer has no marks for it
    finds_boundaries: bool = False  # the model's caches serve whole beginnings only

    def __call__(self, run: Run) -> Job:
        """Raises InvalidRequest or ContextLengthExceeded."""
        submit = run.submit
        generation = submit.generation
        param = generation.prompt.param
        text, ids = self._tokenize(generation.prompt)
        ids = ids or self._nothing(param)
        self._check_bias(generation.sampling.logit_bias)
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
        )

    def _ends(self, generation: Generation) -> frozenset[int]:
        asked = generation.stopping.stop_token_ids
        if (wrong := self._foreign(asked)) is not None:
            raise InvalidRequest(
                f"stop_token_ids has {wrong}; this model's ids are 0 to {self.vocabulary_size - 1}.",
                param="stop_token_ids",
            )
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
        text = None if must_call else generation.grammar
        matcher = self.grammars.matcher(text, calling, self.dialect.special)
        if split is None or split.over or not (split.open or self.dialect.think is not None):
            return Compiled(matcher, self.grammars.eos)
        unless = None if split.open else self.dialect.think
        return Compiled(matcher, self.grammars.eos, split.end.encode(), unless)

    def _tokenize(self, prompt: ChatPrompt | TextPrompt | TokenPrompt) -> tuple[str | None, list[int]]:
        """The prompt's text, if it came as text, and its ids."""
        match prompt:
            case ChatPrompt():
                text = self._render(prompt if self.dialect.family else in_plain_words(prompt))
                return text, self._encode(text)
            case TextPrompt(text=text, suffix=suffix):
                if suffix is None:
                    return text, list(self.tokenizer.encode(text))
                infill = self._infill()
                return text, infill.around(
                    [*infill.begin, *self._encode(text)], behind(self.tokenizer, suffix)
                )
            case TokenPrompt(ids=ids, suffix=suffix):
                if (wrong := self._foreign(ids)) is not None:
                    raise InvalidRequest(
                        f"The prompt has the token id {wrong}; this model's ids are 0 to {self.vocabulary_size - 1}.",
                        param=prompt.param,
                    )
                if suffix is None:
                    return None, ids
                return None, self._infill().around(ids, behind(self.tokenizer, suffix))

    def _infill(self) -> Infill:
        if self.infill is None:
            raise no_infill()
        return self.infill

    def _encode(self, text: str) -> list[int]:
        """The text alone, without what opens every text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _render(self, prompt: ChatPrompt) -> str:
        if not self.tokenizer.has_chat_template:
            raise InvalidRequest(
                "This model has no chat template; use /v1/completions with a prompt.", param=prompt.param
            )
        messages = _parsed_arguments(prompt.messages)
        try:
            return self._apply(messages, prompt)
        except _REFUSALS:
            # Templates that demand one leading system message, or strict alternation, raise for others.
            pass
        try:
            return self._apply(_alternating(messages), prompt)
        except _REFUSALS as error:
            raise InvalidRequest(
                f"This model's chat template refuses these messages: {error}", param=prompt.param
            ) from error

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

    def _check_bias(self, bias: dict[int, float]) -> None:
        if (wrong := self._foreign(bias)) is not None:
            raise InvalidRequest(
                f"logit_bias names the token id {wrong}; this model's ids are 0 to {self.vocabulary_size - 1}.",
                param="logit_bias",
            )

    def _foreign(self, ids: Iterable[int]) -> int | None:
        return next((id for id in ids if not 0 <= id < self.vocabulary_size), None)

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
    except (TypeError, json.JSONDecodeError):
        pass  # not JSON: the template gets the text as it is
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
