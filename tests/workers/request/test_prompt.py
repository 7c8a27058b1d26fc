"""Prompts: chat template, tokenizer, and refusals before the engine sees a request."""

from dataclasses import replace
from typing import Any, Literal

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from shared.errors import ContextLengthExceeded, InvalidRequest
from shared.protocol import (
    ChatPrompt,
    Generation,
    Grammar,
    Prompt,
    Run,
    Sampling,
    Stopping,
    Submit,
    TextPrompt,
    TokenPrompt,
    ToolUse,
)
from tests.tiny_model import CONTEXT_LENGTH, make_tiny_llama
from workers.chat_template.analysis import UNKNOWN
from workers.chat_template.switches import Switch
from workers.grammars.grammar import grammars_for
from workers.model.load import LoadedModel, inspect, load
from workers.output.tool_formats import PLAIN, ModelOutputFormat, plain_parse, tool_format_named
from workers.request.infill import Infill
from workers.request.prompt import Preparation

STRICT = (
    "{% for m in messages %}"
    "{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}{% endif %}"
    "{% if not loop.first and m.role == loop.previtem.role %}{{ raise_exception('alternate') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% endfor %}"
)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


@pytest.fixture
def prepare(loaded: LoadedModel) -> Preparation:
    return Preparation(loaded.tokenizer, loaded.context_length, 280)


def ask(prompt: Prompt, *, max_tokens: int | None = None, echo: bool = False, **sampling: Any) -> Run:
    generation = Generation(
        prompt=prompt,
        sampling=Sampling(seed=0, **sampling),
        stopping=Stopping(max_tokens=max_tokens),
        echo=echo,
    )
    return Run(api="api-1", submit=Submit(request_id="r", attempt=1, model="m", task=generation))


def chat(*messages: tuple[str, str]) -> ChatPrompt:
    return ChatPrompt(messages=[{"role": role, "content": content} for role, content in messages])


def rendered(prepare: Preparation, prompt: ChatPrompt) -> str:
    text: str = prepare.tokenizer.decode(prepare(ask(prompt)).prompt)
    return text


def test_messages_go_through_the_models_template(prepare: Preparation) -> None:
    assert (
        rendered(prepare, chat(("user", "hi"))) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_last_assistant_message_is_continued(prepare: Preparation) -> None:
    assert rendered(prepare, chat(("user", "hi"), ("assistant", "Well"))).endswith(
        "<|im_start|>assistant\nWell"
    )


def test_messages_a_strict_template_refuses_are_folded(
    prepare: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare.tokenizer._tokenizer, "chat_template", STRICT)
    folded = rendered(prepare, chat(("user", "a"), ("system", "s"), ("user", "b"), ("user", "c")))
    assert folded == "<system>s<user>a\n\nb\n\nc"


def test_messages_that_the_template_refuses_in_every_form_are_refused_by_name(
    prepare: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare.tokenizer._tokenizer, "chat_template", "{{ raise_exception('never') }}")
    with pytest.raises(InvalidRequest, match="never") as refused:
        prepare(ask(chat(("user", "a"))))
    assert refused.value.param == "messages"


def test_token_ids_are_taken_as_they_are(prepare: Preparation) -> None:
    assert prepare(ask(TokenPrompt(ids=[7, 8, 9]))).prompt == [7, 8, 9]


def test_an_empty_text_is_the_token_that_opens_every_text(prepare: Preparation) -> None:
    tokenizer = prepare.tokenizer._tokenizer
    before = tokenizer.bos_token
    tokenizer.bos_token = "<|im_start|>"
    try:
        assert prepare(ask(TextPrompt(text=""))).prompt == [tokenizer.convert_tokens_to_ids("<|im_start|>")]
    finally:
        tokenizer.bos_token = before


def test_token_ids_may_end_an_answer_if_they_are_the_models(prepare: Preparation) -> None:
    def ends(ids: list[int]) -> frozenset[int]:
        generation = Generation(
            prompt=TextPrompt(text="a"), sampling=Sampling(seed=0), stopping=Stopping(stop_token_ids=ids)
        )
        submit = Submit(request_id="r", attempt=1, model="m", task=generation)
        return prepare(Run(api="a", submit=submit)).ends

    assert ends([7, 9]) == {7, 9}
    with pytest.raises(InvalidRequest) as refused:
        ends([280])
    assert refused.value.param == "stop_token_ids"


@pytest.mark.parametrize("prompt", [TokenPrompt(ids=[5, 280]), TokenPrompt(ids=[-1]), TextPrompt(text="")])
def test_prompt_ids_beyond_the_vocabulary_are_refused(prepare: Preparation, prompt: Prompt) -> None:
    with pytest.raises(InvalidRequest) as refused:
        prepare(ask(prompt))
    assert refused.value.param == "prompt"


def test_a_token_id_beyond_the_vocabulary_in_logit_bias_is_refused(prepare: Preparation) -> None:
    with pytest.raises(InvalidRequest) as refused:
        prepare(ask(TextPrompt(text="a"), logit_bias={280: 1.0}))
    assert refused.value.param == "logit_bias"


def test_without_max_tokens_a_request_gets_the_rest_of_the_context(prepare: Preparation) -> None:
    assert prepare(ask(TokenPrompt(ids=[5] * 12))).max_tokens == CONTEXT_LENGTH - 12


@pytest.mark.parametrize(("size", "max_tokens"), [(CONTEXT_LENGTH, None), (CONTEXT_LENGTH, 1), (600, 1)])
def test_more_than_the_context_is_refused_in_the_words_clients_look_for(
    prepare: Preparation, size: int, max_tokens: int | None
) -> None:
    with pytest.raises(ContextLengthExceeded, match=f"maximum context length is {CONTEXT_LENGTH} tokens"):
        prepare(ask(TokenPrompt(ids=[5] * size), max_tokens=max_tokens))


def test_max_tokens_beyond_the_context_shrink_to_the_rest_of_it(prepare: Preparation) -> None:
    def limit(size: int, max_tokens: int) -> int:
        asked = ask(TokenPrompt(ids=[5] * size))
        stopping = Stopping(max_tokens=max_tokens)
        generation = asked.submit.generation.model_copy(update={"stopping": stopping})
        submit = asked.submit.model_copy(update={"task": generation})
        return prepare(asked.model_copy(update={"submit": submit})).max_tokens

    assert (limit(12, 32_000), limit(12, 7)) == (CONTEXT_LENGTH - 12, 7)
    with pytest.raises(ContextLengthExceeded):
        limit(CONTEXT_LENGTH, 32_000)


def test_a_refused_grammar_is_named_by_the_field_of_its_dialect(whole: Preparation) -> None:
    wrong = Grammar(json_schema={"not": {}}, param="text.format.schema")
    long = ChatPrompt(param="input", messages=[{"role": "user", "content": "word " * 600}])
    short = long.model_copy(update={"messages": [{"role": "user", "content": "hi"}]})
    for prompt, param in [(long, "input"), (short, "text.format.schema")]:
        generation = Generation(prompt=prompt, sampling=Sampling(seed=0), grammar=wrong)
        with pytest.raises(InvalidRequest) as refused:
            whole(Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", task=generation)))
        assert refused.value.param == param


def test_echo_gives_the_prompts_text_back(prepare: Preparation) -> None:
    assert prepare(ask(TextPrompt(text="the end"), echo=True)).prompt_text == "the end"
    ids = prepare.tokenizer.encode("the end")
    assert prepare(ask(TokenPrompt(ids=ids), echo=True)).prompt_text == "the end"


# ---------------------------------------------------------------- tools and thinking

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
REASONING = ModelOutputFormat(thinking=("<think>", "</think>"))


@pytest.fixture
def whole(loaded: LoadedModel) -> Preparation:
    """A preparation that enforces grammars."""
    return Preparation(loaded.tokenizer, loaded.context_length, 280, grammars_for(loaded.tokenizer, 280))


def with_tools(*messages: dict[str, Any], mode: Literal["auto", "required"] = "auto") -> Run:
    generation = Generation(
        prompt=ChatPrompt(messages=list(messages), tools=[TOOL]),
        sampling=Sampling(seed=0),
        tool_use=ToolUse(mode=mode, names=["look"]),
    )
    return Run(api="api-1", submit=Submit(request_id="r", attempt=1, model="m", task=generation))


def test_a_template_without_tool_support_gets_tools_in_the_system_message(whole: Preparation) -> None:
    job = whole(with_tools({"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}))
    text = whole.tokenizer.decode(job.prompt)
    assert text.startswith("<|im_start|>system\nBe kind.\n\nYou can use these tools")
    assert '{"name": "look", "parameters": {"type": "object"}}' in text
    assert job.tool_policy is not None and job.tool_policy.format is PLAIN and job.grammar is None


def test_earlier_tool_calls_and_results_are_text_for_a_template_without_tools(whole: Preparation) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sea"}'}}
    job = whole(
        with_tools(
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "blue"},
        )
    )
    text = whole.tokenizer.decode(job.prompt)
    assert '<tool_call>{"name": "look", "arguments": {"at": "sea"}}</tool_call><|im_end|>' in text
    assert "<|im_start|>user\n<tool_response>\nblue\n</tool_response>" in text


def test_a_required_tool_call_is_enforced_by_a_grammar(whole: Preparation) -> None:
    job = whole(with_tools({"role": "user", "content": "hi"}, mode="required"))
    assert job.grammar is not None and not job.grammar.after


@pytest.mark.parametrize("several", [True, False])
def test_several_calls_are_demanded_where_the_model_s_format_has_room_for_them(
    whole: Preparation, several: bool
) -> None:
    assert PLAIN.syntax is not None
    format = replace(PLAIN, syntax=replace(PLAIN.syntax, several=several))
    prepare = replace(whole, output_format=replace(whole.output_format, tools=format))
    hi = {"role": "user", "content": "hi"}
    demanded = prepare(with_tools(hi, mode="required")).tool_policy
    free = prepare(with_tools(hi)).tool_policy
    assert demanded is not None and demanded.parallel is several
    assert free is not None and free.parallel


def test_a_schema_or_grammar_that_cannot_be_enforced_is_refused_by_name(
    prepare: Preparation, whole: Preparation
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        prepare(with_tools({"role": "user", "content": "hi"}, mode="required"))
    assert refused.value.param == "tool_choice"
    generation = Generation(
        prompt=TextPrompt(text="a"), sampling=Sampling(seed=0), grammar=Grammar(json_schema={"not": {}})
    )
    with pytest.raises(InvalidRequest) as refused:
        whole(Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", task=generation)))
    assert refused.value.param == "response_format"


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize(("text", "inside"), [("a<think>\n", True), ("a", False)])
def test_a_prompt_that_opens_the_thinking_is_seen(
    whole: Preparation, as_ids: bool, text: str, inside: bool
) -> None:
    prompt: Prompt = TokenPrompt(ids=whole.tokenizer.encode(text)) if as_ids else TextPrompt(text=text)
    generation = Generation(prompt=prompt, sampling=Sampling(seed=0), split_reasoning=True, grammar=Grammar())
    run = Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", task=generation))
    job = replace(whole, output_format=REASONING)(run)
    assert job.thinking is not None and job.thinking.open is inside
    assert job.grammar is not None and job.grammar.after == (b"</think>" if inside else b"")


@pytest.mark.parametrize(("text", "unless"), [("a", 77), ("a<think>", None), ("a<think></think>\n\n", None)])
def test_a_model_that_opens_its_thinking_itself_may_do_so_before_a_grammar(
    whole: Preparation, text: str, unless: int | None
) -> None:
    generation = Generation(
        prompt=TextPrompt(text=text), sampling=Sampling(seed=0), split_reasoning=True, grammar=Grammar()
    )
    run = Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", task=generation))
    job = replace(whole, output_format=replace(REASONING, think_id=77))(run)
    assert job.grammar is not None and job.grammar.unless == unless


@pytest.mark.parametrize(("listens", "budget"), [(False, 64), (True, None)])
def test_the_engine_keeps_a_budget_of_thinking_that_the_template_does_not_listen_to(
    whole: Preparation, listens: bool, budget: int | None
) -> None:
    analysis = replace(UNKNOWN, switches={"thinking_budget": Switch((0, 1024))} if listens else {})
    prompt = chat(("user", "hi")).model_copy(update={"template_kwargs": {"thinking_budget": 64}})
    generation = Generation(prompt=prompt, sampling=Sampling(seed=0), split_reasoning=True)
    run = Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", task=generation))
    job = replace(whole, output_format=REASONING, analysis=analysis)(run)
    assert job.thinking_budget == budget
    assert bytes(whole.tokenizer.decode(job.thinking_end), "utf-8") == (b"" if listens else b"</think>")


def test_thinking_is_split_only_when_asked(whole: Preparation) -> None:
    assert replace(whole, output_format=REASONING)(ask(TextPrompt(text="a<think>"))).thinking is None


def test_a_prompt_as_long_as_the_context_may_ask_for_no_token(prepare: Preparation) -> None:
    assert prepare(ask(TokenPrompt(ids=[5] * CONTEXT_LENGTH), max_tokens=0)).max_tokens == 0


SYSTEM = "You answer in one word, and never more than that, whatever may be asked of you, by whomever. " * 2


def test_chats_with_the_same_system_message_share_a_checkpoint_behind_it(loaded: LoadedModel) -> None:
    finds = Preparation(loaded.tokenizer, loaded.context_length, 280, finds_checkpoints=True)
    one = finds(ask(chat(("system", SYSTEM), ("user", "Why?"))))
    other = finds(ask(chat(("system", SYSTEM), ("user", "~ and who?"))))
    assert one.checkpoints == other.checkpoints
    (behind,) = one.checkpoints
    assert one.prompt[:behind] == other.prompt[:behind]
    assert SYSTEM in loaded.tokenizer.decode(one.prompt[:behind])


def test_a_conversation_has_a_checkpoint_before_its_last_message(loaded: LoadedModel) -> None:
    finds = Preparation(loaded.tokenizer, loaded.context_length, 280, finds_checkpoints=True)
    turns = [("system", SYSTEM), ("user", "Why?"), ("assistant", "Because."), ("user", "Who?")]
    job = finds(ask(chat(*turns)))
    behind, last = job.checkpoints
    assert job.prompt[:behind] == finds(ask(chat(*turns[:2]))).prompt[:behind]
    assert loaded.tokenizer.decode(job.prompt[:last]).endswith("Because.<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize("prompt", [chat(("user", "Hi")), TextPrompt(text=SYSTEM), chat(("user", SYSTEM))])
def test_a_chat_without_a_shared_prefix_has_no_checkpoint(loaded: LoadedModel, prompt: Prompt) -> None:
    finds = Preparation(loaded.tokenizer, loaded.context_length, 280, finds_checkpoints=True)
    assert finds(ask(prompt)).checkpoints == []


def test_a_model_with_full_attention_caches_needs_no_checkpoints(prepare: Preparation) -> None:
    assert prepare(ask(chat(("system", SYSTEM), ("user", "Why?")))).checkpoints == []


# ---------------------------------------------------------------- prompts that are refused cheaply


class Watched:
    """A tokenizer that records the length of the texts it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.read = 0

    def encode(self, text: str, **options: Any) -> list[int]:
        self.read += len(text)
        ids: list[int] = self._tokenizer.encode(text, **options)
        return ids

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


LONGEST = 13  # characters of "<|endoftext|>"
FULL = CONTEXT_LENGTH * LONGEST


@pytest.mark.parametrize(
    "prompt",
    [
        TextPrompt(text="x" * (FULL + 1)),
        chat(("user", "x" * FULL)),
        chat(("user", "hi"), *[("user", "x" * 1000)] * 7),
        ChatPrompt(messages=[{"role": "user", "content": "hi"}], tools=[{"type": "x" * (FULL + 1)}]),
    ],
    ids=["text", "template's output", "messages", "tools"],
)
def test_text_that_cannot_fit_is_refused_before_it_is_tokenized(loaded: LoadedModel, prompt: Prompt) -> None:
    watched = Watched(loaded.tokenizer)
    with pytest.raises(
        ContextLengthExceeded, match=rf"length is {CONTEXT_LENGTH} tokens.*at least \d+"
    ) as refused:
        Preparation(watched, loaded.context_length, 280)(ask(prompt))
    assert watched.read == 0 and "xxx" not in str(refused.value)


def test_a_text_of_the_longest_tokens_fits_as_long_as_the_context_does(prepare: Preparation) -> None:
    text = "<|endoftext|>" * (CONTEXT_LENGTH - 1)
    assert len(prepare(ask(TextPrompt(text=text))).prompt) == CONTEXT_LENGTH - 1


def test_a_long_text_is_refused_after_its_first_part_is_tokenized(loaded: LoadedModel) -> None:
    watched = Watched(loaded.tokenizer)
    wide = Preparation(watched, 20, 280)
    object.__setattr__(wide.encoder, "longest", 10_000)
    with pytest.raises(ContextLengthExceeded, match="at least 320"):
        wide(ask(TextPrompt(text="x" * 100_000)))
    assert watched.read == 20 * 16
    with pytest.raises(ContextLengthExceeded, match="prompt has 22"):
        wide(ask(TextPrompt(text="<|endoftext|>" * 22)))


def test_a_suffix_longer_than_the_context_is_refused(loaded: LoadedModel) -> None:
    watched = Watched(loaded.tokenizer)
    fills = Preparation(watched, loaded.context_length, 280, infill=Infill(1, 2, 3))
    with pytest.raises(ContextLengthExceeded):
        fills(ask(TextPrompt(text="a", suffix="x" * (FULL + 1))))
    assert watched.read < 10


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (TextPrompt(text="a<|im_end|>"), "prompt"),
        (chat(("user", "a")), "messages"),
        (TokenPrompt(ids=[2]), "prompt"),
    ],
    ids=["text", "template", "ids"],
)
def test_token_ids_without_an_embedding_are_refused_wherever_they_come_from(
    loaded: LoadedModel, prompt: Prompt, param: str
) -> None:
    narrow = Preparation(loaded.tokenizer, loaded.context_length, 2)
    with pytest.raises(InvalidRequest, match=r"token id \d+; this model's ids are 0 to 1") as refused:
        narrow(ask(prompt))
    assert refused.value.param == param


def test_infill_tokens_and_held_ids_without_an_embedding_are_refused(loaded: LoadedModel) -> None:
    fills = Preparation(loaded.tokenizer, loaded.context_length, 280, infill=Infill(1, 2, 280))
    with pytest.raises(InvalidRequest, match="token id 280"):
        fills(ask(TextPrompt(text="a", suffix="b")))
    held = ask(TextPrompt(text="a"))
    held = held.model_copy(update={"submit": held.submit.model_copy(update={"held": [[5], [280]]})})
    with pytest.raises(InvalidRequest, match="token id 280"):
        fills(held)


def test_a_required_tool_call_whose_special_tokens_have_no_embedding_is_refused(whole: Preparation) -> None:
    family = tool_format_named("json_tools", "<tool_call>", "</tool_call>", plain_parse)
    output_format = ModelOutputFormat(family, special={"<tool_call>": 280})
    with pytest.raises(InvalidRequest) as refused:
        replace(whole, output_format=output_format)(
            with_tools({"role": "user", "content": "hi"}, mode="required")
        )
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize("arguments", ["9" * 5000, '{"a": ' + "[" * 100_000, "[" * 900 + "]" * 900])
def test_arguments_that_python_cannot_hold_are_text_or_refused(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    template = "{% for m in messages %}{{ m.tool_calls | tojson if m.tool_calls else m.content }}{% endfor %}"
    monkeypatch.setattr(loaded.tokenizer._tokenizer, "chat_template", template)
    family = tool_format_named("json_tools", "<tool_call>", "</tool_call>", plain_parse)
    prepare = Preparation(loaded.tokenizer, 200_000, 280, output_format=ModelOutputFormat(family))
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": arguments}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    try:
        assert prepare(with_tools(said, {"role": "user", "content": "hi"})).prompt
    except InvalidRequest:
        pass


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('not this: ' + messages[0].content) }}",
        "{{ raise_exception(messages[0].content[:50]) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ 1 // 0 }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].content.no.such }}",
    ],
)
def test_an_exception_of_the_template_refuses_without_quoting_the_client(
    prepare: Preparation, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.setattr(prepare.tokenizer._tokenizer, "chat_template", template)
    with pytest.raises(InvalidRequest, match="chat template refuses") as refused:
        prepare(ask(chat(("user", "a long secret that nobody else should read"))))
    assert "secret" not in str(refused.value)


def test_a_continued_answer_that_the_template_drops_stands_behind_the_prompt(
    prepare: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    monkeypatch.setattr(prepare.tokenizer._tokenizer, "chat_template", template)
    assert rendered(prepare, chat(("user", "a question. "), ("assistant", "Well"))) == "a question. Well"


def test_lone_surrogates_in_a_prompt_are_replaced(prepare: Preparation) -> None:
    job = prepare(ask(TextPrompt(text="a\ud83d"), echo=True))
    assert (job.prompt_text, prepare.tokenizer.decode(job.prompt)) == ("a\ufffd", "a\ufffd")
    assert rendered(prepare, chat(("user", "\ud83d"))).startswith("<|im_start|>user\n\ufffd<|im_end|>")


def test_an_exception_of_the_tokenizer_refuses_the_prompt(loaded: LoadedModel) -> None:
    panics = Tokenizer.from_str(loaded.tokenizer.backend_tokenizer.to_str())
    panics.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a|a?)+$"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=panics)
    with pytest.raises(InvalidRequest, match="PanicException"):
        Preparation(tokenizer, loaded.context_length, 280)(ask(TextPrompt(text="a" * 60 + "b")))
