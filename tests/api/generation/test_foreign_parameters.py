"""Other servers' parameters: obeyed, refused by name or ignored; and lenient numbers and empty strings."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import to_json

from api.generation.foreign_parameters import REFUSED, names_of, refuse
from api.generation.parse import parse
from api.messages.request import message_generation
from api.messages.schemas import MessagesRequest
from api.openai.request import chat_generation, completion_generations
from api.openai.schemas import ChatCompletionRequest, CompletionRequest
from api.responses.request import response_generation
from api.responses.schemas import INPUT_ITEMS, ResponsesRequest
from shared.errors import InvalidRequest, UnsupportedParameter
from shared.protocol import Generation, Grammar

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "f"}}


def chat(**fields: Any) -> Generation:
    return chat_generation(parse(to_json({"messages": HI, **fields}), ChatCompletionRequest))


def complete(**fields: Any) -> Generation:
    return completion_generations(parse(to_json({"prompt": "Hi", **fields}), CompletionRequest))[0]


def message(**fields: Any) -> Generation:
    return message_generation(parse(to_json({"max_tokens": 9, "messages": HI, **fields}), MessagesRequest))


def response(**fields: Any) -> Generation:
    return response_generation(
        parse(to_json({"input": "Hi", **fields}), ResponsesRequest), INPUT_ITEMS.validate_python(HI)
    )


DIALECTS = [chat, complete, message, response]
Ask = Callable[..., Generation]


@pytest.mark.parametrize("ask", DIALECTS)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"guided_json": SCHEMA}, {"json_schema": SCHEMA, "param": "guided_json"}),
        ({"guided_json": to_json(SCHEMA).decode()}, {"json_schema": SCHEMA, "param": "guided_json"}),
        ({"guided_regex": "a+"}, {"regex": "a+", "param": "guided_regex"}),
        ({"guided_choice": ["a", 'b"']}, {"grammar": 'start: "a" | "b\\""', "param": "guided_choice"}),
        ({"guided_grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"', "param": "guided_grammar"}),
        ({"guided_json_object": True}, {"param": "guided_json_object"}),
        (
            {"structured_outputs": {"json": SCHEMA}},
            {"json_schema": SCHEMA, "param": "structured_outputs.json"},
        ),
        ({"structured_outputs": {"regex": "a"}}, {"regex": "a", "param": "structured_outputs.regex"}),
        ({"grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"', "param": "grammar"}),
        ({"grammar": {"type": "json", "value": SCHEMA}}, {"json_schema": SCHEMA, "param": "grammar.value"}),
        ({"json_schema": SCHEMA}, {"json_schema": SCHEMA, "param": "json_schema"}),
        (
            {"json_schema": {"name": "n", "schema": SCHEMA}},
            {"json_schema": SCHEMA, "param": "json_schema"},
        ),
        ({"regex": "a"}, {"regex": "a", "param": "regex"}),
        ({"ebnf": 'root ::= "a"'}, {"grammar": 'root ::= "a"', "param": "ebnf"}),
        ({"format": "json"}, {"param": "format"}),
        ({"format": SCHEMA}, {"json_schema": SCHEMA, "param": "format"}),
        (
            {"guided_json": SCHEMA, "guided_whitespace_pattern": " ?"},
            {"json_schema": SCHEMA, "whitespace": " ?", "param": "guided_json"},
        ),
        (
            {"structured_outputs": {"json_object": True, "disable_any_whitespace": True}},
            {"whitespace": "", "param": "structured_outputs.json_object"},
        ),
    ],
)
def test_a_constraint_is_obeyed_under_the_name_of_any_server(
    ask: Ask, fields: dict[str, Any], said: Any
) -> None:
    assert ask(**fields).grammar == Grammar(**said)


@pytest.mark.parametrize("ask", [chat, complete])
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"type": "json_object", "schema": SCHEMA}, {"json_schema": SCHEMA}),
        ({"type": "json_schema", "schema": SCHEMA}, {"json_schema": SCHEMA}),
        ({"type": "regex", "pattern": "a"}, {"regex": "a"}),
        ({"type": "grammar", "grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
    ],
)
def test_response_formats_of_other_servers_are_obeyed(ask: Ask, wanted: Any, said: Any) -> None:
    assert ask(response_format=wanted).grammar == Grammar(**said, param="response_format")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex"),
        ({"guided_regex": "a", "tools": [TOOL]}, "guided_regex"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[1]"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_regex": "a" * 70_000}, "guided_regex"),
        ({"structured_outputs": {"structural_tag": {}}}, "structured_outputs.structural_tag"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"response_format": {"type": "regex"}}, "response_format.pattern"),
        ({"guided_something_new": 1}, "guided_something_new"),
    ],
)
def test_a_constraint_that_cannot_be_obeyed_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(**fields)
    assert refused.value.param == param


NOT_NEUTRAL: dict[str, Any] = {
    "modalities": ["text", "audio"],
    "web_search_options": {},
    "typical_p": 0.5,
    "do_sample": False,
    "skip_special_tokens": False,
    "include_reasoning": False,
    "n": 3,
    "best_of": 3,
    "reasoning_format": "none",
    "add_generation_prompt": False,
    "continue_final_message": True,
    "add_special_tokens": 5,
    "add_special": 5,
    "function_call": {"name": "f"},
    "repeat_last_n": 64,
    "top_n_sigma": 1.5,
    "prompt_logprobs": 0,
}


@pytest.mark.parametrize(
    "schema", [ChatCompletionRequest, CompletionRequest, MessagesRequest, ResponsesRequest]
)
def test_a_foreign_parameter_that_would_change_the_answer_is_refused_and_its_neutral_value_is_not(
    schema: type[BaseModel],
) -> None:
    for name in REFUSED.keys() - names_of(schema):
        refuse({name: None}, schema)
        with pytest.raises(UnsupportedParameter) as refused:
            refuse({name: NOT_NEUTRAL.get(name, ["x"]), "repetition_penalty": 1.5}, schema)
        assert refused.value.param == name


@pytest.mark.parametrize(
    "name", ["use_beam_search", "typical_p", "mirostat", "echo", "return_token_ids", "n"]
)
def test_true_is_not_the_neutral_value_1(name: str) -> None:
    with pytest.raises(UnsupportedParameter):
        refuse({name: True}, MessagesRequest)


@pytest.mark.parametrize(
    "fields",
    [
        {
            "mirostat": 0,
            "mirostat_tau": 5.0,
            "typical_p": 1,
            "tfs_z": 1.0,
            "dry_multiplier": 0.0,
            "dry_base": 1.75,
        },
        {
            "use_beam_search": False,
            "best_of": 1,
            "logits_processors": [],
            "stop_token_ids": [],
            "repeat_last_n": 64,
        },
        {"skip_special_tokens": True, "spaces_between_special_tokens": False, "add_special_tokens": False},
        {
            "add_generation_prompt": True,
            "continue_final_message": False,
            "modalities": ["text"],
            "echo": False,
        },
        {
            "user": "u",
            "metadata": {"a": "b"},
            "service_tier": "auto",
            "prediction": {"type": "content"},
            "store": True,
        },
        {"cache_prompt": True, "id_slot": 0, "keep_alive": "5m", "priority": 1, "some_new_hint": {"a": 1}},
        {
            "adapters": None,
            "draft_model": "",
            "lora": [],
            "chat_template": None,
            "options": {},
            "documents": [],
        },
    ],
)
def test_hints_and_neutral_values_of_foreign_parameters_are_ignored(fields: dict[str, Any]) -> None:
    seed = {"seed": 1}
    assert chat(**fields, **seed) == chat(**seed)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"reasoning": {"effort": "low"}}, {"enable_thinking": True, "reasoning_effort": "low"}),
        ({"reasoning": {"effort": "none"}}, {"enable_thinking": False}),
        ({"reasoning": {"enabled": False}}, {"enable_thinking": False, "thinking": False}),
        ({"reasoning": {"max_tokens": 64}}, {"enable_thinking": True, "thinking_budget": 64}),
        ({"reasoning": {"effort": "", "exclude": False, "summary": "auto"}}, {}),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "none"}, {"enable_thinking": False}),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 64}},
            {"enable_thinking": True, "thinking": True, "thinking_budget": 64},
        ),
        (
            {"thinking": {"type": "disabled", "budget_tokens": 64}},
            {"enable_thinking": False, "thinking": False},
        ),
    ],
)
def test_thinking_is_asked_for_in_the_forms_of_several_servers(
    fields: dict[str, Any], said: dict[str, Any]
) -> None:
    prompt = chat(**fields).prompt
    assert prompt.kind == "chat"
    assert {name: prompt.template_kwargs.get(name) for name in said} == said
    assert ("thinking_budget" in prompt.template_kwargs) is ("thinking_budget" in said)


def test_thinking_cannot_be_left_out_of_an_answer() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat(reasoning={"exclude": True})
    assert refused.value.param == "reasoning.exclude"


@pytest.mark.parametrize("wanted", [{"format": {"type": "json_schema", "schema": SCHEMA}}, "json"])
def test_a_constraint_in_the_form_of_another_dialect_is_refused(wanted: Any) -> None:
    with pytest.raises(UnsupportedParameter):
        chat(text=wanted)
    assert chat(text={"format": {"type": "text"}, "verbosity": "low"}, seed=1) == chat(seed=1)


def test_no_alternatives_are_asked_for_without_logprobs() -> None:
    assert chat(top_logprobs=0, logprobs=False, seed=1) == chat(seed=1)
    with pytest.raises(InvalidRequest):
        chat(top_logprobs=1, logprobs=False)


def test_continue_final_message_must_fit_the_role_of_the_last_message() -> None:
    begun = [*HI, {"role": "assistant", "content": "We"}]
    chat(messages=begun, continue_final_message=True, add_generation_prompt=False)
    with pytest.raises(UnsupportedParameter):
        chat(messages=begun, add_generation_prompt=True)


# ---- as clients send it


@pytest.mark.parametrize("ask", [chat, complete])
def test_whole_floats_and_empty_strings_are_read_as_integers_and_absent_fields(ask: Ask) -> None:
    asked = ask(n=2.0, seed=42.0, max_tokens=5.0, stop="", top_k=3.0, grammar="", stop_token_ids=[7.0])
    assert (asked.n, asked.sampling.seed, asked.stopping.max_tokens, asked.sampling.top_k) == (2, 42, 5, 3)
    assert (asked.stopping.stop, asked.stopping.stop_token_ids, asked.grammar) == ([], [7], None)
    assert ask(stop=["", "x", None]).stopping.stop == ["x"]
    assert message(stop_sequences=["", "x", None]).stopping.stop == ["x"]
    with pytest.raises(InvalidRequest):
        ask(n=1.5)


def test_an_empty_reasoning_effort_is_an_absent_one() -> None:
    assert chat(reasoning_effort="", tool_choice="", seed=1) == chat(seed=1)


@pytest.mark.parametrize("ask", [chat, complete])
@pytest.mark.parametrize("name", ["max_tokens", "n_predict", "max_new_tokens"])
@pytest.mark.parametrize("none", [-1, None, -1.0])
def test_max_tokens_minus_one_and_null_mean_no_limit(ask: Ask, name: str, none: Any) -> None:
    assert ask(**{name: none}).stopping.max_tokens is None


def test_max_tokens_defaults_to_16_for_completions_only() -> None:
    assert (complete().stopping.max_tokens, chat().stopping.max_tokens) == (16, None)


def test_max_tokens_beyond_the_documented_bound_is_left_to_the_model() -> None:
    assert chat(max_tokens=131_072).stopping.max_tokens == 131_072
    assert chat(max_completion_tokens=10**12).stopping.max_tokens == (1 << 31) - 1
    assert response(max_output_tokens=-1).stopping.max_tokens is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": ["a"] * 43, "n": 3}, "prompt"),
        ({"prompt": [[1]] * 2, "n": 1, "best_of": 65}, "prompt"),
        ({"n": 129}, "n"),
    ],
)
def test_all_prompts_of_a_request_ask_for_at_most_128_choices(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        complete(**fields)
    assert refused.value.param == param
    complete(prompt=["a"] * 64, n=2)


@pytest.mark.parametrize("kind", ["image_url", "image", "document", "something"])
def test_a_picture_that_a_tool_answered_is_left_out_and_the_model_is_told(kind: str) -> None:
    parts = [{"type": "text", "text": "see "}, {"type": kind, "image_url": {"url": "data:"}}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = chat(
        messages=[
            *HI,
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": parts},
        ]
    )
    assert asked.prompt.kind == "chat"
    assert asked.prompt.messages[-1]["content"] == f"see [{kind} left out: this model reads text only]"
