from typing import Any

import pytest

from api.translate import chat_generation, completion_generations
from shared.errors import InvalidRequest, UnsupportedParameter
from shared.openai import ChatCompletionRequest, CompletionRequest
from shared.protocol import ChatPrompt, Generation, TextPrompt, TokenPrompt
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


def test_developer_is_system_and_order_is_kept() -> None:
    given = [("system", "a"), ("user", "b"), ("developer", "c"), ("user", "d")]
    assert [(m["role"], m["content"]) for m in messages(*({"role": r, "content": c} for r, c in given))] == [
        ("system", "a"),
        ("user", "b"),
        ("system", "c"),
        ("user", "d"),
    ]


def test_text_parts_are_joined_and_nothing_is_the_empty_string() -> None:
    parts = [{"type": "text", "text": "Say"}, {"type": "refusal", "refusal": " no"}]
    assert [
        m["content"] for m in messages({"role": "assistant", "content": parts}, {"role": "assistant"})
    ] == [
        "Say no",
        "",
    ]


def test_arguments_of_a_past_call_stay_the_string_they_were() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{broken"}}
    assert messages({"role": "assistant", "content": None, "tool_calls": [call]})[0]["tool_calls"] == [call]


def test_max_completion_tokens_wins_and_chat_has_no_default() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).stopping.max_tokens == 7
    assert chat(max_tokens=5).stopping.max_tokens == 5
    assert chat().stopping.max_tokens is None


def test_a_seed_is_made_when_none_is_given() -> None:
    assert chat(seed=-3).sampling.seed == -3
    seeds = {chat().sampling.seed for _ in range(8)}
    assert len(seeds) == 8
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_sampling_arrives_whole() -> None:
    fields = {"temperature": 0, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 1}
    generation = chat(
        **fields, top_k=-1, logit_bias={"5": -100}, stop="x", min_tokens=2, ignore_eos=True, n=3
    )
    assert {key: getattr(generation.sampling, key) for key in fields} == fields
    assert (generation.sampling.top_k, generation.sampling.logit_bias) == (0, {5: -100})
    assert (generation.stopping.stop, generation.stopping.min_tokens, generation.n) == (["x"], 2, 3)


def test_logprobs_are_the_number_of_alternatives() -> None:
    assert [chat().logprobs, chat(logprobs=True).logprobs, chat(logprobs=True, top_logprobs=3).logprobs] == [
        None,
        0,
        3,
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
        ),
    ],
)
def test_what_chat_cannot_do_yet_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
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
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    assert chat(**fields).prompt == chat().prompt


def test_template_kwargs_are_a_short_list_of_typed_names() -> None:
    prompt = chat(chat_template_kwargs={"enable_thinking": False, "reasoning_effort": "low"}).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.template_kwargs == {"enable_thinking": False, "reasoning_effort": "low"}
    with pytest.raises(InvalidRequest):
        chat(chat_template_kwargs={"enable_thinking": "yes"})


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
    [
        ({"suffix": "end"}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"echo": True, "logprobs": 1}, "logprobs"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_what_completions_cannot_do_yet_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        completions(**fields)
    assert caught.value.param == param


def test_best_of_may_equal_n_and_min_tokens_may_not_exceed_max_tokens() -> None:
    assert completions(best_of=2, n=2)[0].n == 2
    with pytest.raises(InvalidRequest):
        completions(min_tokens=17)
