"""Turns a request into a job: chat template, tokenizer, grammar, and the check against the context length.

Runs on a preparing thread beside the engine, so a long prompt does not delay decoding. Everything that can be wrong
with a request is found here, before the engine sees it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shared.errors import ContextLengthExceeded, InvalidRequest
from shared.protocol import ChatPrompt, Generation, Grammar, Run, Stopping, TextPrompt, TokenPrompt
from workers.chat_template.analysis import UNKNOWN, TemplateAnalysis
from workers.grammars.grammar import CompiledGrammar, Grammars
from workers.job import Job
from workers.model.default_sampling import filled
from workers.output.channels import answers_in, opened_by
from workers.output.reasoning import ThinkingDelimiters, thinking_of
from workers.output.text import characters_in, well_formed
from workers.output.tool_calls import ToolPolicy
from workers.output.tool_formats import PLAIN, Channels, ModelOutputFormat
from workers.request.chat_rendering import ChatRendering
from workers.request.checkpoints import checkpoints_of
from workers.request.encoding import Encoder
from workers.request.infill import Infill, behind, no_infill
from workers.request.preparation import generation_of

BUDGET = "thinking_budget"  # among the variables of a template
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
    output_format: ModelOutputFormat = field(default_factory=ModelOutputFormat)
    infill: Infill | None = None  # None: the tokenizer has no special tokens for it
    finds_checkpoints: bool = False  # the model's caches can only be restored at stored lengths
    own_sampling: Mapping[str, float] = field(
        default_factory=dict
    )  # for parameters that a request leaves out
    special_tokens_in_text: bool = False
    analysis: TemplateAnalysis = UNKNOWN  # of the chat template
    encoder: Encoder = field(init=False)
    chat: ChatRendering = field(init=False)

    def __post_init__(self) -> None:
        encoder = Encoder(self.tokenizer, self.context_length, self.vocabulary_size)
        object.__setattr__(self, "encoder", encoder)
        literals = None if self.special_tokens_in_text else encoder.literals
        format = self.output_format
        chat = ChatRendering(
            self.tokenizer, self.analysis, format.tools is not None, literals, format.special
        )
        object.__setattr__(self, "chat", chat)

    def __call__(self, run: Run) -> Job:
        """Raises InvalidRequest or ContextLengthExceeded."""
        submit = run.submit
        generation = filled(generation_of(run), self.own_sampling)
        param = generation.prompt.param
        text, ids = self._tokenize(generation.prompt)
        ids = ids or self._bos(param)
        for held in submit.held:
            self.encoder.check_ids(held, param, "What was held of the answer has")
        self.encoder.check_ids(generation.sampling.logit_bias, "logit_bias", "logit_bias names")
        policy = self._tool_policy(generation)
        thinking = self._thinking(text, ids, policy)
        split = thinking if generation.split_reasoning else None
        opened = opened_by(text or "") if self._has_channels(generation) else None
        return Job(
            request_id=submit.request_id,
            attempt=submit.attempt,
            api=run.api,
            prompt=ids,
            generation=generation,
            max_tokens=self._max_tokens(len(ids), generation.stopping, param),
            held=submit.held,
            prompt_text=self._echo(generation, text, ids),
            grammar=self._grammar(generation, policy, split, opened),
            thinking=split,
            **self._thinking_budget(generation, split),
            opened=opened,
            tool_policy=policy,
            checkpoints=self._checkpoints(generation.prompt, ids),
            prediction=self._prediction(generation),
            speculates=generation.speculate,
            ends=self._ends(generation),
            caller=submit.caller,
            group=submit.group,
            priority=submit.key.priority if submit.key else "normal",
        )

    def _prediction(self, generation: Generation) -> list[int]:
        """No more of it than the context has room for, because the rest can never be drawn."""
        if not generation.prediction or not generation.speculate:
            return []
        return self.encoder.beginning(well_formed(generation.prediction), "prediction")

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

    def _thinking(
        self, text: str | None, ids: list[int], policy: ToolPolicy | None
    ) -> ThinkingDelimiters | None:
        if self.output_format.thinking is None:
            return None
        tail = self.tokenizer.decode(ids[-TAIL:]) if text is None else text
        begins = policy.format.starts if policy else ()
        return thinking_of(*self.output_format.thinking, tail, self.output_format.answer, begins)

    def _thinking_budget(self, generation: Generation, split: ThinkingDelimiters | None) -> dict[str, Any]:
        """The budget that the engine keeps, where the template does not listen to it."""
        prompt = generation.prompt
        budget = prompt.template_kwargs.get(BUDGET) if isinstance(prompt, ChatPrompt) else None
        if split is None or not isinstance(budget, int) or BUDGET in self.analysis.switches:
            return {}
        end = self.encoder.beginning(split.end, prompt.param)
        return {"thinking_budget": budget, "thinking_end": end}

    def _has_channels(self, generation: Generation) -> bool:
        chats = isinstance(generation.prompt, ChatPrompt)
        return self.output_format.channels is not None and generation.split_reasoning and chats

    def _tool_policy(self, generation: Generation) -> ToolPolicy | None:
        use, prompt = generation.tool_use, generation.prompt
        if use is None or not isinstance(prompt, ChatPrompt):
            return None
        format = self.output_format.tools or PLAIN
        demanded_at_most_one = use.mode == "required" and not (format.syntax and format.syntax.several)
        parallel = use.parallel and not demanded_at_most_one
        return ToolPolicy(format, frozenset(use.names), prompt.tools or [], parallel)

    def _grammar(
        self,
        generation: Generation,
        policy: ToolPolicy | None,
        split: ThinkingDelimiters | None,
        opened: str | None,
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
        special, channels = self.output_format.special, self.output_format.channels
        if opened is not None and channels is not None:
            return self._in_channels(self.grammars, channels, text, policy, answers_in(opened))
        matcher = self.grammars.matcher(text, policy, special)
        if split is None or split.over or not (split.open or self.output_format.think_id is not None):
            return CompiledGrammar(matcher, self.grammars.eos)
        unless = None if split.open else self.output_format.think_id
        return CompiledGrammar(matcher, self.grammars.eos, split.end.encode(), unless)

    def _in_channels(
        self,
        grammars: Grammars,
        channels: Channels,
        text: Grammar | None,
        policy: ToolPolicy | None,
        answers: bool,
    ) -> CompiledGrammar:
        """The grammar of answers that are messages with headers.

        ``text`` None: a call is required. ``answers``: the prompt ends in an answer.
        """
        special = self.output_format.special
        if text is None:
            return CompiledGrammar(grammars.matcher(None, policy, special), grammars.eos)
        if answers:
            return CompiledGrammar(grammars.matcher(text, None, special), grammars.eos)
        if policy is None and (message := grammars.message(text, channels, special)) is not None:
            return CompiledGrammar(message, grammars.eos)
        ends = () if policy else grammars.eos  # a call may end the turn before any answer
        return CompiledGrammar(grammars.matcher(text, None, special), ends, header=channels.answer)

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
        return self.chat(prompt)

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
