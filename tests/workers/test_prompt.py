"""Prompts: the template, the tokenizer, and what is refused before the engine sees it."""

from dataclasses import replace
from typing import Any, Literal

import pytest

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
from workers.families import PLAIN, Dialect
from workers.grammar import grammars_for
from workers.loader import LoadedModel, inspect, load
from workers.prompt import Preparation

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
