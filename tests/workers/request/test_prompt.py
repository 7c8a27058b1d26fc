"""Prompts: the template, the tokenizer, and what is refused before the engine sees it."""

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
from workers.grammars.grammar import grammars_for
from workers.model.load import LoadedModel, inspect, load
from workers.output.tool_formats import PLAIN, Dialect, family_named, plain_parse
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
    return Run(api="api-1", submit=Submit(request_id="r", attempt=1, model="m", generation=generation))


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


def test_what_no_folding_helps_is_refused_by_name(
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
        submit = Submit(request_id="r", attempt=1, model="m", generation=generation)
        return prepare(Run(api="a", submit=submit)).ends

    assert ends([7, 9]) == {7, 9}
    with pytest.raises(InvalidRequest) as refused:
        ends([280])
    assert refused.value.param == "stop_token_ids"


@pytest.mark.parametrize("prompt", [TokenPrompt(ids=[5, 280]), TokenPrompt(ids=[-1]), TextPrompt(text="")])
def test_prompts_the_model_cannot_read_are_refused(prepare: Preparation, prompt: Prompt) -> None:
    with pytest.raises(InvalidRequest) as refused:
        prepare(ask(prompt))
    assert refused.value.param == "prompt"


def test_a_foreign_id_in_logit_bias_is_refused(prepare: Preparation) -> None:
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


def test_max_tokens_that_may_shrink_are_what_is_left_of_the_context(prepare: Preparation) -> None:
    def limit(size: int, max_tokens: int) -> int:
        asked = ask(TokenPrompt(ids=[5] * size))
        stopping = Stopping(max_tokens=max_tokens)
        generation = asked.submit.generation.model_copy(update={"stopping": stopping})
        submit = asked.submit.model_copy(update={"generation": generation})
        return prepare(asked.model_copy(update={"submit": submit})).max_tokens

    assert (limit(12, 32_000), limit(12, 7)) == (CONTEXT_LENGTH - 12, 7)
    with pytest.raises(ContextLengthExceeded):
        limit(CONTEXT_LENGTH, 32_000)


def test_what_is_refused_has_the_name_its_dialect_gave_it(whole: Preparation) -> None:
    wrong = Grammar(json_schema={"not": {}}, param="text.format.schema")
    long = ChatPrompt(param="input", messages=[{"role": "user", "content": "word " * 600}])
    short = long.model_copy(update={"messages": [{"role": "user", "content": "hi"}]})
    for prompt, param in [(long, "input"), (short, "text.format.schema")]:
        generation = Generation(prompt=prompt, sampling=Sampling(seed=0), grammar=wrong)
        with pytest.raises(InvalidRequest) as refused:
            whole(Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", generation=generation)))
        assert refused.value.param == param


def test_echo_gives_the_prompts_text_back(prepare: Preparation) -> None:
    assert prepare(ask(TextPrompt(text="the end"), echo=True)).prompt_text == "the end"
    ids = prepare.tokenizer.encode("the end")
    assert prepare(ask(TokenPrompt(ids=ids), echo=True)).prompt_text == "the end"


# ---------------------------------------------------------------- tools and thinking

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
REASONING = Dialect(thinking=("<think>", "</think>"))


@pytest.fixture
def whole(loaded: LoadedModel) -> Preparation:
    """One that can enforce."""
    return Preparation(loaded.tokenizer, loaded.context_length, 280, grammars_for(loaded.tokenizer, 280))


def with_tools(*messages: dict[str, Any], mode: Literal["auto", "required"] = "auto") -> Run:
    generation = Generation(
        prompt=ChatPrompt(messages=list(messages), tools=[TOOL]),
        sampling=Sampling(seed=0),
        tool_use=ToolUse(mode=mode, names=["look"]),
    )
    return Run(api="api-1", submit=Submit(request_id="r", attempt=1, model="m", generation=generation))


def test_a_template_that_knows_no_tools_gets_them_in_plain_words(whole: Preparation) -> None:
    job = whole(with_tools({"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}))
    text = whole.tokenizer.decode(job.prompt)
    assert text.startswith("<|im_start|>system\nBe kind.\n\nYou can use these tools")
    assert '{"name": "look", "parameters": {"type": "object"}}' in text
    assert job.calling is not None and job.calling.family is PLAIN and job.grammar is None


def test_earlier_calls_and_their_answers_are_text_for_such_a_template(whole: Preparation) -> None:
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


def test_a_call_that_must_come_is_enforced(whole: Preparation) -> None:
    job = whole(with_tools({"role": "user", "content": "hi"}, mode="required"))
    assert job.grammar is not None and not job.grammar.after


def test_what_cannot_be_enforced_is_refused_by_name(prepare: Preparation, whole: Preparation) -> None:
    with pytest.raises(InvalidRequest) as refused:
        prepare(with_tools({"role": "user", "content": "hi"}, mode="required"))
    assert refused.value.param == "tool_choice"
    generation = Generation(
        prompt=TextPrompt(text="a"), sampling=Sampling(seed=0), grammar=Grammar(json_schema={"not": {}})
    )
    with pytest.raises(InvalidRequest) as refused:
        whole(Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", generation=generation)))
    assert refused.value.param == "response_format"


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize(("text", "inside"), [("a<think>\n", True), ("a", False)])
def test_a_prompt_that_opens_the_thinking_is_seen(
    whole: Preparation, as_ids: bool, text: str, inside: bool
) -> None:
    prompt: Prompt = TokenPrompt(ids=whole.tokenizer.encode(text)) if as_ids else TextPrompt(text=text)
    generation = Generation(prompt=prompt, sampling=Sampling(seed=0), split_reasoning=True, grammar=Grammar())
    run = Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", generation=generation))
    job = replace(whole, dialect=REASONING)(run)
    assert job.thinking is not None and job.thinking.open is inside
    assert job.grammar is not None and job.grammar.after == (b"</think>" if inside else b"")


@pytest.mark.parametrize(("text", "unless"), [("a", 77), ("a<think>", None), ("a<think></think>\n\n", None)])
def test_a_model_that_opens_its_thinking_itself_may_do_so_before_a_grammar(
    whole: Preparation, text: str, unless: int | None
) -> None:
    generation = Generation(
        prompt=TextPrompt(text=text), sampling=Sampling(seed=0), split_reasoning=True, grammar=Grammar()
    )
    run = Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", generation=generation))
    job = replace(whole, dialect=replace(REASONING, think=77))(run)
    assert job.grammar is not None and job.grammar.unless == unless


def test_thinking_is_split_only_when_asked(whole: Preparation) -> None:
    assert replace(whole, dialect=REASONING)(ask(TextPrompt(text="a<think>"))).thinking is None


def test_no_token_may_be_wanted_of_a_prompt_as_long_as_the_context(prepare: Preparation) -> None:
    assert prepare(ask(TokenPrompt(ids=[5] * CONTEXT_LENGTH), max_tokens=0)).max_tokens == 0


SYSTEM = "You answer in one word, and never more than that, whatever may be asked of you, by whomever. " * 2


def test_chats_that_are_led_alike_have_a_boundary_behind_it(loaded: LoadedModel) -> None:
    finds = Preparation(loaded.tokenizer, loaded.context_length, 280, finds_boundaries=True)
    one = finds(ask(chat(("system", SYSTEM), ("user", "Why?"))))
    other = finds(ask(chat(("system", SYSTEM), ("user", "~ and who?"))))
    assert one.boundaries == other.boundaries
    (behind,) = one.boundaries
    assert one.prompt[:behind] == other.prompt[:behind]
    assert SYSTEM in loaded.tokenizer.decode(one.prompt[:behind])


def test_a_conversation_has_one_more_before_its_last_message(loaded: LoadedModel) -> None:
    finds = Preparation(loaded.tokenizer, loaded.context_length, 280, finds_boundaries=True)
    turns = [("system", SYSTEM), ("user", "Why?"), ("assistant", "Because."), ("user", "Who?")]
    job = finds(ask(chat(*turns)))
    behind, last = job.boundaries
    assert job.prompt[:behind] == finds(ask(chat(*turns[:2]))).prompt[:behind]
    assert loaded.tokenizer.decode(job.prompt[:last]).endswith("Because.<|im_end|>\n<|im_start|>user\n")


@pytest.mark.parametrize("prompt", [chat(("user", "Hi")), TextPrompt(text=SYSTEM), chat(("user", SYSTEM))])
def test_nothing_that_others_would_begin_with_has_none(loaded: LoadedModel, prompt: Prompt) -> None:
    finds = Preparation(loaded.tokenizer, loaded.context_length, 280, finds_boundaries=True)
    assert finds(ask(prompt)).boundaries == []


def test_a_model_whose_caches_serve_every_beginning_needs_none(prepare: Preparation) -> None:
    assert prepare(ask(chat(("system", SYSTEM), ("user", "Why?")))).boundaries == []


# ---------------------------------------------------------------- what must cost nothing, or end nobody


class Watched:
    """A tokenizer that says how much text it was given."""

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


def test_a_long_text_is_refused_by_what_its_beginning_has(loaded: LoadedModel) -> None:
    watched = Watched(loaded.tokenizer)
    wide = Preparation(watched, 20, 280)
    object.__setattr__(wide.encoder, "longest", 10_000)
    with pytest.raises(ContextLengthExceeded, match="at least 320"):
        wide(ask(TextPrompt(text="x" * 100_000)))
    assert watched.read == 20 * 16
    with pytest.raises(ContextLengthExceeded, match="prompt has 22"):
        wide(ask(TextPrompt(text="<|endoftext|>" * 22)))


def test_a_suffix_that_cannot_fit_is_refused_too(loaded: LoadedModel) -> None:
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
def test_ids_that_the_model_cannot_read_are_refused_wherever_they_come_from(
    loaded: LoadedModel, prompt: Prompt, param: str
) -> None:
    narrow = Preparation(loaded.tokenizer, loaded.context_length, 2)
    with pytest.raises(InvalidRequest, match=r"token id \d+; this model's ids are 0 to 1") as refused:
        narrow(ask(prompt))
    assert refused.value.param == param


def test_marks_and_held_ids_that_the_model_cannot_read_are_refused(loaded: LoadedModel) -> None:
    fills = Preparation(loaded.tokenizer, loaded.context_length, 280, infill=Infill(1, 2, 280))
    with pytest.raises(InvalidRequest, match="token id 280"):
        fills(ask(TextPrompt(text="a", suffix="b")))
    held = ask(TextPrompt(text="a"))
    held = held.model_copy(update={"submit": held.submit.model_copy(update={"held": [[5], [280]]})})
    with pytest.raises(InvalidRequest, match="token id 280"):
        fills(held)


def test_a_call_whose_marks_the_model_cannot_read_cannot_be_demanded(whole: Preparation) -> None:
    family = family_named("json_tools", "<tool_call>", "</tool_call>", plain_parse)
    dialect = Dialect(family, special={"<tool_call>": 280})
    with pytest.raises(InvalidRequest) as refused:
        replace(whole, dialect=dialect)(with_tools({"role": "user", "content": "hi"}, mode="required"))
    assert refused.value.param == "tool_choice"


@pytest.mark.parametrize("arguments", ["9" * 5000, '{"a": ' + "[" * 100_000, "[" * 900 + "]" * 900])
def test_arguments_that_python_cannot_hold_are_text_or_refused(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    template = "{% for m in messages %}{{ m.tool_calls | tojson if m.tool_calls else m.content }}{% endfor %}"
    monkeypatch.setattr(loaded.tokenizer._tokenizer, "chat_template", template)
    family = family_named("json_tools", "<tool_call>", "</tool_call>", plain_parse)
    prepare = Preparation(loaded.tokenizer, 200_000, 280, dialect=Dialect(family))
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
def test_whatever_a_template_raises_is_a_refusal_without_the_clients_words(
    prepare: Preparation, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    monkeypatch.setattr(prepare.tokenizer._tokenizer, "chat_template", template)
    with pytest.raises(InvalidRequest, match="chat template refuses") as refused:
        prepare(ask(chat(("user", "a long secret that nobody else should read"))))
    assert "secret" not in str(refused.value)


def test_an_answer_to_be_continued_that_a_template_leaves_out_is_not_quoted(
    prepare: Preparation, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    monkeypatch.setattr(prepare.tokenizer._tokenizer, "chat_template", template)
    with pytest.raises(InvalidRequest) as refused:
        prepare(ask(chat(("user", "the prompt's secret"), ("assistant", "Well"))))
    assert "secret" not in str(refused.value) and "Well" not in str(refused.value)


def test_what_utf_8_cannot_say_is_replaced_in_a_prompt(prepare: Preparation) -> None:
    job = prepare(ask(TextPrompt(text="a\ud83d"), echo=True))
    assert (job.prompt_text, prepare.tokenizer.decode(job.prompt)) == ("a\ufffd", "a\ufffd")
    assert rendered(prepare, chat(("user", "\ud83d"))).startswith("<|im_start|>user\n\ufffd<|im_end|>")


def test_what_a_tokenizer_raises_is_a_refusal(loaded: LoadedModel) -> None:
    panics = Tokenizer.from_str(loaded.tokenizer.backend_tokenizer.to_str())
    panics.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a|a?)+$"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=panics)
    with pytest.raises(InvalidRequest, match="PanicException"):
        Preparation(tokenizer, loaded.context_length, 280)(ask(TextPrompt(text="a" * 60 + "b")))
