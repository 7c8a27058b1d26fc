"""Requests of chat and completions as the inner Generation: tables."""

from typing import Any

import pytest

from api.openai.request import chat_generation, completion_generations
from api.openai.schemas import ChatCompletionRequest, CompletionRequest
from shared.errors import InvalidRequest, UnsupportedParameter
from shared.protocol import ChatPrompt, Generation, Grammar, TextPrompt, TokenPrompt, ToolUse
from tests.api.conftest import chat_body


def chat(**fields: Any) -> Generation:
    return chat_generation(ChatCompletionRequest.model_validate(chat_body(**fields)))


def messages(*given: dict[str, Any]) -> list[dict[str, Any]]:
    prompt = chat(messages=list(given)).prompt
    assert isinstance(prompt, ChatPrompt)
    return prompt.messages


def completions(**fields: Any) -> list[Generation]:
    return completion_generations(CompletionRequest.model_validate({"prompt": "Hi", **fields}))


TOOL = {"type": "function", "function": {"name": "f"}}


def test_the_role_developer_becomes_system_and_messages_keep_their_order() -> None:
    given = [("system", "a"), ("user", "b"), ("developer", "c"), ("user", "d")]
    assert [(m["role"], m["content"]) for m in messages(*({"role": r, "content": c} for r, c in given))] == [
        ("system", "a"),
        ("user", "b"),
        ("system", "c"),
        ("user", "d"),
    ]


def test_text_parts_are_joined_and_null_content_becomes_empty() -> None:
    parts = [{"type": "text", "text": "Say"}, {"type": "refusal", "refusal": " no"}]
    assert [
        m["content"] for m in messages({"role": "assistant", "content": parts}, {"role": "assistant"})
    ] == [
        "Say no",
        "",
    ]


def test_the_arguments_of_a_past_call_stay_a_string() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{broken"}}
    assert messages({"role": "assistant", "content": None, "tool_calls": [call]})[0]["tool_calls"] == [call]


def test_max_completion_tokens_wins_over_max_tokens_and_chat_has_no_default() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).stopping.max_tokens == 7
    assert chat(max_tokens=5).stopping.max_tokens == 5
    assert chat().stopping.max_tokens is None


def test_a_request_without_a_seed_gets_one() -> None:
    assert chat(seed=-3).sampling.seed == -3
    seeds = {chat().sampling.seed for _ in range(8)}
    assert len(seeds) == 8
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_every_sampling_parameter_reaches_the_generation() -> None:
    fields = {"temperature": 0, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 1}
    generation = chat(
        **fields, top_k=-1, logit_bias={"5": -100}, stop="x", min_tokens=2, ignore_eos=True, n=3
    )
    assert {key: getattr(generation.sampling, key) for key in fields} == fields
    assert (generation.sampling.top_k, generation.sampling.logit_bias) == (0, {5: -100})
    assert (generation.stopping.stop, generation.stopping.min_tokens, generation.n) == (["x"], 2, 3)


def test_the_cache_key_of_a_chat_or_completion_reaches_the_generation() -> None:
    assert chat(prompt_cache_key="k").cache_key == "k"
    assert [one.cache_key for one in completions(prompt=["a", "b"], prompt_cache_key="k")] == ["k", "k"]
    assert chat().cache_key == ""


def test_a_prediction_and_the_wish_for_none_of_the_guesses_reach_the_generation() -> None:
    text = {"type": "content", "content": "def f(): pass"}
    parts = {"type": "content", "content": [{"type": "text", "text": t} for t in ("def f()", ": pass")]}
    assert [chat(prediction=each).prediction for each in (text, parts)] == ["def f(): pass"] * 2
    assert (chat().prediction, chat().speculate, chat(speculation=False).speculate) == ("", True, False)
    both = completions(prompt=["a", "b"], speculation=False, prediction=text)
    assert [(one.speculate, one.prediction) for one in both] == [(False, "def f(): pass")] * 2


def test_top_logprobs_becomes_the_number_of_alternatives() -> None:
    assert [chat().logprobs, chat(logprobs=True).logprobs, chat(logprobs=True, top_logprobs=3).logprobs] == [
        None,
        0,
        3,
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_unsupported_chat_fields_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tool_choice": "auto"},
        {"response_format": {"type": "text"}},
        {"chat_template_kwargs": {"enable_thinking": None}},
    ],
)
def test_chat_fields_that_ask_for_nothing_are_accepted(fields: dict[str, Any]) -> None:
    assert chat(**fields).prompt == chat().prompt


def test_template_kwargs_are_a_short_list_of_typed_names() -> None:
    prompt = chat(chat_template_kwargs={"enable_thinking": False, "reasoning_effort": "low"}).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.template_kwargs == {"enable_thinking": False, "reasoning_effort": "low"}
    with pytest.raises(InvalidRequest):
        chat(chat_template_kwargs={"enable_thinking": "yes"})
    for budget in (-1, True, 1.5, "1024"):
        with pytest.raises(InvalidRequest, match="number of tokens"):
            chat(chat_template_kwargs={"thinking_budget": budget})


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", [TextPrompt(text="a")]),
        (["a", "b"], [TextPrompt(text="a"), TextPrompt(text="b")]),
        ([0, 2], [TokenPrompt(ids=[0, 2])]),
        ([[1], [2, 3]], [TokenPrompt(ids=[1]), TokenPrompt(ids=[2, 3])]),
    ],
)
def test_each_prompt_becomes_one_generation(prompt: Any, expected: list[Any]) -> None:
    generations = completions(prompt=prompt)
    assert [generation.prompt for generation in generations] == expected
    assert {generation.stopping.max_tokens for generation in generations} == {16}


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"suffix": "end", "echo": True}, "echo"), ({"best_of": 2, "stream": True}, "best_of")],
)
def test_unsupported_completion_fields_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        completions(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("prompt", ["a", ["a"], [1], [[1]]])
def test_a_suffix_applies_to_each_prompt_and_an_empty_one_is_none(prompt: Any) -> None:
    def suffixes(**fields: Any) -> list[str | None]:
        prompts = [one.prompt for one in completions(prompt=prompt, **fields)]
        return [one.suffix for one in prompts if not isinstance(one, ChatPrompt)]

    assert suffixes(suffix="end") == ["end"]
    assert suffixes(suffix="") == suffixes(suffix=None) == [None]


def test_best_of_runs_as_many_choices_with_log_probabilities() -> None:
    assert [(one.n, one.logprobs) for one in completions(best_of=3, n=2)] == [(3, 0)]
    assert [(one.n, one.logprobs) for one in completions(best_of=2, n=2)] == [(2, None)]
    assert [(one.n, one.logprobs) for one in completions(best_of=2, logprobs=3)] == [(2, 3)]


def test_max_tokens_0_with_echo_generates_nothing() -> None:
    (generation,) = completions(prompt=[1, 2], max_tokens=0, echo=True, logprobs=1)
    assert (generation.stopping.max_tokens, generation.echo, generation.logprobs) == (0, True, 1)


def test_min_tokens_may_not_exceed_max_tokens() -> None:
    with pytest.raises(InvalidRequest):
        completions(min_tokens=17)


# ---- grammars


def json_schema(schema: dict[str, Any] | None, **fields: Any) -> dict[str, Any]:
    inner = {"name": "x", **fields} | ({} if schema is None else {"schema": schema})
    return {"type": "json_schema", "json_schema": inner}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"enum": [None, 1]}}}


@pytest.mark.parametrize(
    ("wanted", "grammar"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Grammar()),
        (json_schema(SCHEMA), Grammar(json_schema=SCHEMA)),
        (json_schema(SCHEMA, strict=True), Grammar(json_schema=SCHEMA)),
        (json_schema(None), Grammar()),
        (json_schema(nested(31)), Grammar(json_schema=nested(31))),
    ],
)
def test_a_chat_response_format_becomes_a_grammar(wanted: dict[str, Any], grammar: Grammar | None) -> None:
    assert chat(response_format=wanted).grammar == grammar


@pytest.mark.parametrize(
    "schema",
    [
        {"description": "x" * (64 << 10)},
        nested(33),
        {"properties": {"a": {"$ref": "https://example.com/schema.json"}}},
        {"anyOf": [{"$ref": "file:///etc/passwd"}]},
    ],
)
def test_a_json_schema_is_bounded_and_refers_to_itself_only(schema: dict[str, Any]) -> None:
    for fields in (
        {"response_format": json_schema(schema)},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}]},
    ):
        with pytest.raises(InvalidRequest) as caught:
            chat(**fields)
        assert caught.value.param in ("response_format", "tools[0].function.parameters")


def test_a_schema_may_have_a_property_named_ref() -> None:
    schema = {"properties": {"$ref": {"type": "string"}}}
    assert chat(response_format=json_schema(schema)).grammar == Grammar(json_schema=schema)


# ---- tools

TOOLS = [TOOL, {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}]
ALLOWED = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "g"}}]}


@pytest.mark.parametrize(
    ("choice", "use"),
    [
        (None, ToolUse(names=["f", "g"])),
        ("auto", ToolUse(names=["f", "g"])),
        ("required", ToolUse(mode="required", names=["f", "g"], parallel=False)),
        (
            {"type": "function", "function": {"name": "g"}},
            ToolUse(mode="required", names=["g"], parallel=False),
        ),
        ({"type": "allowed_tools", "allowed_tools": ALLOWED}, ToolUse(names=["g"])),
        ("none", None),
    ],
)
def test_a_chat_tool_choice_says_which_tools_may_or_must_be_called(choice: Any, use: ToolUse | None) -> None:
    assert chat(tools=TOOLS, tool_choice=choice).tool_use == use


def test_the_template_gets_a_schema_for_every_tool() -> None:
    prompt = chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "g"}}).prompt
    assert isinstance(prompt, ChatPrompt)
    assert [tool["function"] for tool in prompt.tools or ()] == [
        {"name": "f", "parameters": {"type": "object", "properties": {}}},
        {"name": "g", "parameters": {"type": "object"}},
    ]


def test_a_tool_choice_of_a_missing_tool_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "h"}})
    assert caught.value.param == "tool_choice"


def test_several_chat_calls_are_demanded_only_of_a_client_that_says_so() -> None:
    use = chat(tools=TOOLS, tool_choice="required", parallel_tool_calls=True).tool_use
    assert use == ToolUse(mode="required", names=["f", "g"])


def test_parallel_tool_calls_false_allows_one_call() -> None:
    use = chat(tools=TOOLS, parallel_tool_calls=False).tool_use
    assert use is not None
    assert not use.parallel


@pytest.mark.parametrize(
    ("choice", "use"),
    [
        ("auto", ToolUse(names=["f"], parallel=False)),
        ({"name": "f"}, ToolUse(mode="required", names=["f"], parallel=False)),
        ("none", None),
    ],
)
def test_functions_become_tools_without_parallel_calls(choice: Any, use: ToolUse | None) -> None:
    assert chat(functions=[{"name": "f"}], function_call=choice).tool_use == use


def test_past_function_calls_and_their_answers_share_an_id() -> None:
    call, result = messages(
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"},
    )
    assert (result["role"], result["tool_call_id"]) == ("tool", call["tool_calls"][0]["id"])


# ---- thinking


@pytest.mark.parametrize(
    ("effort", "kwargs"),
    [
        ("none", {"enable_thinking": False}),
        ("minimal", {"enable_thinking": True, "reasoning_effort": "minimal"}),
        ("medium", {"enable_thinking": True, "reasoning_effort": "medium"}),
        ("max", {"enable_thinking": True, "reasoning_effort": "max"}),
    ],
)
def test_reasoning_effort_sets_the_variables_of_the_template(effort: str, kwargs: dict[str, Any]) -> None:
    prompt = chat(reasoning_effort=effort).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.template_kwargs == kwargs


@pytest.mark.parametrize(
    ("thinking", "budget"),
    [
        ({"type": "enabled", "budget_tokens": 64}, {"thinking_budget": 64}),
        ({"type": "disabled", "budget_tokens": 64}, {}),
    ],
)
def test_a_budget_beside_the_switch_bounds_thinking_that_is_on(
    thinking: dict[str, Any], budget: dict[str, Any]
) -> None:
    prompt = chat(thinking=thinking).prompt
    assert isinstance(prompt, ChatPrompt)
    on = thinking["type"] == "enabled"
    assert prompt.template_kwargs == {"enable_thinking": on, "thinking": on, **budget}


@pytest.mark.parametrize("thought", ["hm", [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]])
def test_thinking_that_comes_back_as_a_part_is_the_turns_thinking_and_no_text(thought: Any) -> None:
    parts = [{"type": "thinking", "thinking": thought, "signature": "x"}, {"type": "text", "text": "four"}]
    messages = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": parts}]
    prompt = chat(messages=messages).prompt
    assert isinstance(prompt, ChatPrompt)
    said = "hm" if thought == "hm" else "h\nm"
    assert prompt.messages[1] == {"role": "assistant", "content": "four", "reasoning_content": said}


def test_chat_template_kwargs_win_over_reasoning_effort() -> None:
    prompt = chat(reasoning_effort="high", chat_template_kwargs={"enable_thinking": False}).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.template_kwargs == {"enable_thinking": False, "reasoning_effort": "high"}


def test_chat_splits_thinking_from_the_answer() -> None:
    assert chat().split_reasoning
    assert not completions()[0].split_reasoning


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_past_thinking_is_read_under_both_of_its_names(name: str) -> None:
    [told] = messages({"role": "assistant", "content": "Yes.", name: "hm"})
    assert told == {"role": "assistant", "content": "Yes.", "reasoning_content": "hm"}
