"""Turns a request into a job: chat template, tokenizer, grammar, and the check against the context length.

Runs on a preparing thread beside the engine, so a long prompt does not delay decoding. Everything that can be wrong
with a request is found here, before the engine sees it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jinja2 import TemplateError

from shared.errors import ContextLengthExceeded, InvalidRequest
from shared.protocol import ChatPrompt, Generation, Run, Stopping, TextPrompt, TokenPrompt
from workers.grammars.grammar import CompiledGrammar, Grammars
from workers.job import Job
from workers.model.default_sampling import filled
from workers.output.reasoning import Thinking, thinking_of
from workers.output.text import characters_in, well_formed
from workers.output.tool_calls import ToolPolicy
from workers.output.tool_formats import PLAIN, OutputFormat
from workers.request.checkpoints import checkpoints_of
from workers.request.encoding import Encoder
from workers.request.infill import Infill, behind, no_infill
from workers.request.tools_in_prose import in_plain_words

SAID = 200  # characters of a template's error that are passed to the client
SHORT = 12  # characters that such an error and a message may share
TAIL = 16  # last ids of the prompt, in which the delimiters of thinking are looked for


@dataclass(frozen=True)
class Preparation:
    """``tokenizer`` is mlx-lm's wrapper of a Hugging Face tokenizer; ``vocabulary_size``: how many ids have embeddings.

    ``special_tokens_in_text``: clients may write special tokens in messages.
    """

    tokenizer: Any
    context_length: int
    vocabulary_size: int
    grammars: Grammars | None = None  # None: llguidance cannot read this tokenizer
    output_format: OutputFormat = field(default_factory=OutputFormat)
    infill: Infill | None = None  # None: the tokenizer has no special tokens for it
    finds_checkpoints: bool = False  # the model's caches can only be restored at stored lengths
    own_sampling: Mapping[str, float] = field(
        default_factory=dict
    )  # for parameters that a request leaves out
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
        ids = ids or self._bos(param)
        for held in submit.held:
            self.encoder.check_ids(held, param, "What was held of the answer has")
        self.encoder.check_ids(generation.sampling.logit_bias, "logit_bias", "logit_bias names")
        thinking, policy = self._thinking(text, ids), self._tool_policy(generation)
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
            grammar=self._grammar(generation, policy, split),
            thinking=split,
            tool_policy=policy,
            checkpoints=self._checkpoints(generation.prompt, ids),
            ends=self._ends(generation),
            caller=submit.caller,
            group=submit.group,
        )

    def _ends(self, generation: Generation) -> frozenset[int]:
        asked = generation.stopping.stop_token_ids
        self.encoder.check_ids(asked, "stop_token_ids", "stop_token_ids has")
        fills_in = self.infill is not None and _fills_in(generation.prompt)
        return frozenset(asked) | (self.infill.ends if self.infill and fills_in else frozenset())

    def _bos(self, param: str) -> list[int]:
        """The BOS token, which stands for an empty prompt. Raises InvalidRequest if the tokenizer has none."""
        bos = getattr(self.tokenizer, "bos_token_id", None)
        if bos is None:
            raise InvalidRequest(
                "The prompt is empty, and this model has no token that begins a text: say something.",
                param=param,
            )
        self.encoder.check_ids([bos], param)
        return [bos]

    def _thinking(self, text: str | None, ids: list[int]) -> Thinking | None:
        if self.output_format.thinking is None:
            return None
        tail = self.tokenizer.decode(ids[-TAIL:]) if text is None else text
        return thinking_of(*self.output_format.thinking, tail)

    def _tool_policy(self, generation: Generation) -> ToolPolicy | None:
        use, prompt = generation.tool_use, generation.prompt
        if use is None or not isinstance(prompt, ChatPrompt):
            return None
        format = self.output_format.tools or PLAIN
        # A required call is one call: small models would repeat theirs without end.
        parallel = use.parallel and use.mode == "auto"
        return ToolPolicy(format, frozenset(use.names), prompt.tools or [], parallel)

    def _grammar(
        self, generation: Generation, policy: ToolPolicy | None, split: Thinking | None
    ) -> CompiledGrammar | None:
        """The grammar of the text or of the required calls. It applies behind the thinking, where that is split off."""
        must_call = policy is not None and generation.tool_use and generation.tool_use.mode == "required"
        if generation.grammar is None and not must_call:
            return None
        if self.grammars is None:
            raise InvalidRequest(
                "With this model's tokenizer no form can be enforced.",
                param=generation.grammar.param if generation.grammar and not must_call else "tool_choice",
            )
        if must_call:
            self.encoder.check_ids(
                self.output_format.special.values(), "tool_choice", "A call of this model's kind has"
            )
        text = None if must_call else generation.grammar
        matcher = self.grammars.matcher(text, policy, self.output_format.special)
        if split is None or split.over or not (split.open or self.output_format.think_id is not None):
            return CompiledGrammar(matcher, self.grammars.eos)
        unless = None if split.open else self.output_format.think_id
        return CompiledGrammar(matcher, self.grammars.eos, split.end.encode(), unless)

    def _tokenize(self, prompt: ChatPrompt | TextPrompt | TokenPrompt) -> tuple[str | None, list[int]]:
        """The prompt's text, unless it was given as ids, and its ids."""
        encode = partial(self.encoder.encode, param=prompt.param)
        match prompt:
            case ChatPrompt():
                text = self._render(prompt)
                ids = self.encoder.encode_chat(text, prompt.param)
                return self.encoder.literals.unescaped(text), ids
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
        """The rendered template, in which special tokens of the client's text are escaped (see ``literal_text``)."""
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
        except Exception:  # noqa: BLE001, S110 - a template is a program and may raise any exception
            # Some templates accept only one leading system message, or only alternating turns.
            pass
        try:
            return well_formed(self._apply(_alternating(prompt.messages), prompt))
        except Exception as error:  # noqa: BLE001
            raise InvalidRequest(
                f"This model's chat template refuses these messages{_words_of(error, prompt)}.",
                param=prompt.param,
            ) from None

    def _shown(self, prompt: ChatPrompt) -> ChatPrompt:
        """The prompt as the template receives it."""
        messages, tools, more = prompt.messages, prompt.tools, prompt.template_kwargs
        if self.output_format.tools:
            messages = _parsed_arguments(messages)
        if not self.special_tokens_in_text:
            literals = self.encoder.literals
            messages = literals.escaped_messages(messages, self.output_format.special)
            tools, more = literals.escaped(tools), literals.escaped(more)
        shown = prompt.model_copy(update={"messages": messages, "tools": tools, "template_kwargs": more})
        return shown if self.output_format.tools else in_plain_words(shown)

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

    def _checkpoints(self, prompt: ChatPrompt | TextPrompt | TokenPrompt, ids: list[int]) -> list[int]:
        if not (self.finds_checkpoints and isinstance(prompt, ChatPrompt)):
            return []

        def encode(messages: list[dict[str, Any]]) -> list[int] | None:
            try:
                return self._tokenize(prompt.model_copy(update={"messages": messages}))[1]
            except InvalidRequest:
                return None

        return checkpoints_of(ids, prompt.messages, encode)

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
    """Parses the arguments of calls: templates iterate over them, and clients send them as a JSON string."""
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
        pass  # not JSON, or too deeply nested for Python: the template receives the text unchanged
    return {**call, "function": function}


def _alternating(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same contents as one system message and alternating turns, for templates that accept nothing else."""
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
    """The template's own error message, unless it quotes the client's text."""
    if not isinstance(error, TemplateError) or not error.message:
        return f" ({type(error).__name__})"
    said = error.message[:SAID]
    for text in sorted(_strings_in([prompt.messages, prompt.tools]), key=len, reverse=True):
        # Short strings, such as a role's name, may be the template's own.
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
