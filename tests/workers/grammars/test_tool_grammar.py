"""Required tool calls: a tiny random model keeps to every tool format, and the format's own parser reads the call."""

import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from shared.errors import InvalidRequest
from shared.protocol import Delta, FinishReason, Grammar
from tests.golden.test_calls import GOLDEN, family
from tests.jobs import job
from tests.marks import quick_and_slow
from tests.workers.engines import ids, play, text
from tests.workers.output.family_templates import FAMILIES as BY_TEMPLATE
from tests.workers.output.family_templates import format_of
from tests.workers.schemas import DIGIT, record
from workers.engine.engine import BatchEngine
from workers.grammars.grammar import CompiledGrammar, Grammars
from workers.grammars.tool_grammar import CallableTool, ToolGrammar
from workers.job import Job
from workers.model.load import LoadedModel
from workers.output.channels import HARMONY
from workers.output.derived_format import tool_format_of
from workers.output.reasoning import ThinkingDelimiters
from workers.output.tool_calls import ToolPolicy
from workers.output.tool_formats import PLAIN, ToolFormat
from workers.output.vocabulary import token_bytes

FAMILIES = {name: family(name) for name in GOLDEN} | {"plain": PLAIN}
DERIVED = {name: tool_format_of(format_of(name)) for name in BY_TEMPLATE}
FORMATS = ("json_tools", "qwen3_coder", "pythonic", "kimi_k2", "plain")
QUICK = ("DeepSeek V4", "Kimi K3", "Apertus", "Solar Open")
LOOK: dict[str, Any] = {
    "type": "object",
    "properties": {
        "word": {"type": "string", "enum": ["red", "green"]},
        "count": DIGIT,
        "loud": {"type": "boolean"},
    },
    "required": ["count"],
}
SAY = record(kind={"enum": ["a", "b"]})


def tool(name: str, parameters: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("look", LOOK), tool("say", SAY), tool("rest", None)]


def calling(which: ToolFormat, *names: str, parallel: bool = False, tools: Any = TOOLS) -> ToolPolicy:
    return ToolPolicy(which, frozenset(names or ("look", "say", "rest")), tools, parallel)


def must_call(grammars: Grammars, name: str, asked: ToolPolicy, **options: Any) -> Job:
    compiled = CompiledGrammar(grammars.calls(asked, {}), grammars.eos)
    return job(
        name, grammar=compiled, tool_policy=asked, **{"max_tokens": 350, "temperature": 1.0, **options}
    )


def calls(deltas: list[Delta]) -> list[tuple[str | None, str]]:
    found: list[tuple[str | None, str]] = []
    for piece in (piece for delta in deltas for piece in delta.calls):
        if piece.name:
            found.append((piece.name, piece.arguments))
        else:
            found[-1] = (found[-1][0], found[-1][1] + piece.arguments)
    return found


def check(deltas: list[Delta]) -> None:
    ((name, arguments),) = calls(deltas)
    parameters = next(t["function"]["parameters"] for t in TOOLS if t["function"]["name"] == name)
    jsonschema.validate(json.loads(arguments), parameters or record())
    assert text(deltas).strip() == ""
    assert deltas[-1].finish is not None and deltas[-1].finish.reason == FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    "name", quick_and_slow(FORMATS, tuple(name for name in FAMILIES if name not in FORMATS))
)
def test_a_required_tool_call_is_generated_in_the_models_tool_format(
    engine: BatchEngine, grammars: Grammars, name: str
) -> None:
    jobs = [must_call(grammars, str(seed), calling(FAMILIES[name]), seed=seed) for seed in range(6)]
    for deltas in play(engine, jobs).values():
        check(deltas)


@pytest.mark.parametrize("name", quick_and_slow(QUICK, tuple(name for name in DERIVED if name not in QUICK)))
def test_a_required_tool_call_is_generated_in_the_form_that_the_template_shows(
    engine: BatchEngine, grammars: Grammars, name: str
) -> None:
    if DERIVED[name].syntax is None:
        with pytest.raises(InvalidRequest, match="use auto"):
            must_call(grammars, "refused", calling(DERIVED[name]))
        return
    jobs = [must_call(grammars, str(seed), calling(DERIVED[name]), seed=seed) for seed in range(4)]
    for deltas in play(engine, jobs).values():
        check(deltas)


@pytest.mark.slow
def test_required_arguments_of_any_depth_are_generated_where_containers_are_written_in_tags(
    engine: BatchEngine, grammars: Grammars
) -> None:
    node = record(name={"enum": ["x", "y"]}) | {"$defs": {}}
    node["properties"] |= {"size": DIGIT, "nodes": {"type": "array", "items": {"$ref": "#/$defs/node"}}}
    parameters = record(root={"$ref": "#/$defs/node"}, on={"type": "boolean"}) | {"$defs": {"node": node}}
    asked = calling(DERIVED["MiniMax M3"], "grow", tools=[tool("grow", parameters)])
    jobs = [must_call(grammars, str(seed), asked, seed=seed, temperature=3.0) for seed in range(16)]
    grown = []
    for deltas in play(engine, jobs).values():
        if _ended(deltas):
            ((_, arguments),) = calls(deltas)
            grown.append(json.loads(arguments))
            jsonschema.validate(grown[-1], parameters)
    assert any(each["root"].get("nodes") for each in grown)


def test_a_schema_that_names_itself_many_times_gives_no_larger_a_grammar() -> None:
    node = {"type": "object", "properties": {f"p{i}": {"$ref": "#/$defs/node"} for i in range(30)}}
    both = {"type": "object", "properties": {"a": {"$ref": "#/$defs/node"}, "b": {"type": "string"}}}
    syntax = DERIVED["MiniMax M3"].syntax
    assert syntax is not None
    grammar = ToolGrammar(syntax, {}, {})
    written = grammar.grammar([CallableTool("grow", {**both, "$defs": {"node": node}})], parallel=False)
    assert len(written) < 500_000
    assert "<b>" in written, "what stands behind it is still an argument"


@pytest.mark.parametrize(
    ("before", "complete"),
    [
        ("<|channel|>commentary to=functions.say", True),
        (
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.say",
            True,
        ),
        ("<|channel|>final", False),
    ],
)
def test_a_required_call_of_gpt_oss_is_a_message_to_the_tool_behind_thinking_or_without(
    loaded: LoadedModel, grammars: Grammars, before: str, complete: bool
) -> None:
    assert HARMONY.call is not None
    thinks = replace(HARMONY.call, thinking=HARMONY.thinking)
    asked = calling(ToolFormat("", "", PLAIN.parse, thinks))
    guide = CompiledGrammar(grammars.calls(asked, {}), grammars.eos).guide(token_bytes(loaded.tokenizer))
    for id in spelled(loaded, before + ' <|constrain|>json<|message|>{"kind": "a"}'):
        guide.take(id)
    assert (guide.complete, guide.failed) == (complete, not complete)


@pytest.mark.parametrize(
    ("written", "complete"),
    [
        ('<|channel|>final<|message|>{"kind": "a"}', True),
        (
            (
                "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
                '<|channel|>final<|message|>{"kind": "a"}'
            ),
            True,
        ),
        ('<|channel|>final<|message|>{"kind": "c"}', False),
        ('{"kind": "a"}', False),
    ],
)
def test_json_of_gpt_oss_is_in_its_final_message(
    loaded: LoadedModel, grammars: Grammars, written: str, complete: bool
) -> None:
    matcher = grammars.message(Grammar(json_schema=SAY), HARMONY, {})
    assert matcher is not None
    guide = CompiledGrammar(matcher, grammars.eos).guide(token_bytes(loaded.tokenizer))
    for id in spelled(loaded, written):
        guide.take(id)
    assert (guide.complete, guide.failed) == (complete, not complete)


@pytest.mark.parametrize("name", ["json_tools", "qwen3_coder", "pythonic"])
def test_a_named_tool_is_the_one_that_is_called(engine: BatchEngine, grammars: Grammars, name: str) -> None:
    jobs = [must_call(grammars, str(seed), calling(FAMILIES[name], "say"), seed=seed) for seed in range(4)]
    assert {each for deltas in play(engine, jobs).values() for each, _ in calls(deltas)} == {"say"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["json_tools", "pythonic", "kimi_k2", "minimax_m2", "gemma4"])
def test_several_tool_calls_are_generated_when_parallel_calls_are_allowed(
    engine: BatchEngine, grammars: Grammars, name: str
) -> None:
    asked = calling(FAMILIES[name], parallel=True)
    jobs = [must_call(grammars, str(seed), asked, seed=seed, temperature=3.0) for seed in range(16)]
    played = [deltas for deltas in play(engine, jobs).values() if _ended(deltas)]
    assert max(len(calls(deltas)) for deltas in played) > 1
    assert all(calls(deltas) and not text(deltas).strip() for deltas in played)


def _ended(deltas: list[Delta]) -> bool:
    finish = deltas[-1].finish
    return finish is not None and finish.reason == FinishReason.TOOL_CALLS


@pytest.mark.parametrize("cut", [1, 30, 45])
def test_a_resumed_call_goes_on_with_the_same_id(engine: BatchEngine, grammars: Grammars, cut: int) -> None:
    asked = calling(PLAIN, "look")
    whole = play(engine, [must_call(grammars, "a", asked)])["a", 0]
    resumed = play(engine, [must_call(grammars, "a", asked, held=[ids(whole)[:cut]])])["a", 0]
    assert ids(resumed) == ids(whole)[cut:]
    assert [delta.calls for delta in resumed] == [delta.calls for delta in whole[cut:]]
    assert resumed[-1].finish == whole[-1].finish


def test_each_choice_has_its_own_call_ids(engine: BatchEngine, grammars: Grammars) -> None:
    deltas = play(engine, [must_call(grammars, "a", calling(PLAIN), n=3)])
    assert len({piece.id for choice in deltas.values() for d in choice for piece in d.calls if piece.id}) == 3


def test_a_tool_call_may_replace_text_with_an_enforced_schema(
    engine: BatchEngine, grammars: Grammars
) -> None:
    answer, asked = Grammar(json_schema=record(kind={"const": "x"})), calling(PLAIN, "rest")
    compiled = CompiledGrammar(grammars.matcher(answer, asked, {}), grammars.eos)
    jobs = [
        job(str(i), grammar=compiled, tool_policy=asked, max_tokens=200, seed=i, temperature=3.0)
        for i in range(12)
    ]
    played = list(play(engine, jobs).values())
    assert {bool(calls(deltas)) for deltas in played} == {True, False}
    assert all(calls(deltas) or json.loads(text(deltas)) == {"kind": "x"} for deltas in played)


def test_a_tool_whose_schema_cannot_be_enforced_can_still_be_called(
    engine: BatchEngine, grammars: Grammars
) -> None:
    oddities: list[dict[str, Any]] = [
        {"type": "object", "not": {"type": "null"}},
        {"type": "no such type"},
        {},
    ]
    for odd in oddities:
        asked = calling(PLAIN, "odd", tools=[tool("odd", odd)])
        deltas = play(engine, [must_call(grammars, "a", asked, seed=3)])["a", 0]
        assert [name for name, _ in calls(deltas)] == ["odd"]


@pytest.mark.parametrize(
    "name", quick_and_slow(("qwen3_coder", "gemma4"), ("glm47", "pythonic", "minimax_m2"))
)
def test_references_and_constants_among_arguments_are_followed(
    engine: BatchEngine, grammars: Grammars, name: str
) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "$defs": {"Colour": {"enum": ["red", "green"]}, "Also": {"$ref": "#/$defs/Colour"}},
        "properties": {
            "colour": {"$ref": "#/$defs/Also"},
            "kind": {"const": "paint"},
            "many": {"anyOf": [{"type": "integer", "maximum": 9, "minimum": 0}, {"type": "null"}]},
        },
        "required": ["colour", "kind", "many"],
    }
    asked = calling(FAMILIES[name], "paint", tools=[tool("paint", schema)])
    for deltas in play(engine, [must_call(grammars, str(i), asked, seed=i) for i in range(6)]).values():
        ((_, arguments),) = calls(deltas)
        found = json.loads(arguments)
        assert (found["colour"] in ("red", "green"), found["kind"]) == (True, "paint")


@pytest.mark.parametrize("name", FAMILIES)
def test_an_unquoted_string_argument_ends_at_its_delimiter(
    loaded: LoadedModel, grammars: Grammars, name: str
) -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": DIGIT},
        "required": ["a", "b"],
    }
    asked = calling(FAMILIES[name], "note", tools=[tool("note", parameters)])
    grammar = CompiledGrammar(grammars.calls(asked, {}), grammars.eos)
    syntax = asked.format.syntax
    assert syntax is not None
    opening = syntax.outer[0] + syntax.opening.replace("{name}", "note")
    quote = syntax.quotes or ('"', '"')
    key = (syntax.key or '{"{key}": ').replace("{key}", "a")
    text = opening + key + quote[0] + "one < 2, {}" + quote[1] + syntax.after
    guide = grammar.guide(token_bytes(loaded.tokenizer))
    for id in loaded.tokenizer.encode(text):
        guide.take(id)
    assert not guide.failed and not guide.complete


def test_a_tool_choice_that_names_no_offered_tool_is_refused(grammars: Grammars) -> None:
    with pytest.raises(InvalidRequest):
        grammars.calls(calling(PLAIN, "missing"), {})


def test_a_tool_grammar_refers_to_special_tokens_by_id(loaded: LoadedModel, grammars: Grammars) -> None:
    special = {"<|im_start|>": 1}
    which = ToolFormat("<|im_start|>", "</call>", PLAIN.parse, syntax=FAMILIES["longcat"].syntax)
    assert which.syntax is not None
    syntax = type(which.syntax)("<|im_start|>{name}[", "]</call>")
    asked = calling(ToolFormat("<|im_start|>", "</call>", PLAIN.parse, syntax=syntax), "rest")
    matcher = grammars.calls(asked, special)
    assert matcher.deep_copy().compute_ff_tokens()[:1] == [1]
    assert matcher.deep_copy().consume_tokens([1, *loaded.tokenizer.encode("rest[")])


# ---------------------------------------------------------------- calls, thinking and text together


def spelled(loaded: LoadedModel, words: str) -> list[int]:
    found: list[int] = loaded.tokenizer.encode(words)
    return found


class Spoken:
    """The output of a choice when the model is forced to generate these words."""

    def __init__(self, engine: BatchEngine, loaded: LoadedModel, words: str, **options: Any) -> None:
        held = spelled(loaded, words)
        shown: list[Delta] = []
        for cut in range(len(held)):  # one logit bias forces one token at a time
            one = job(
                "a", held=[held[:cut]], max_tokens=len(held) + 9, logit_bias={held[cut]: 1e4}, **options
            )
            first = play(engine, [one])["a", 0][0]
            shown.append(first)
            if first.finish:
                break
        self.text = "".join(delta.text for delta in shown)
        self.reasoning = "".join(delta.reasoning for delta in shown)
        self.calls = calls(shown)
        self.finish = shown[-1].finish


THINKING = ThinkingDelimiters("<think>", "</think>")
CALL = '<tool_call>{"name": "say", "arguments": {"kind": "a"}}</tool_call>'


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_thinking_text_and_calls_are_told_apart(engine: BatchEngine, loaded: LoadedModel) -> None:
    words = f"<think>{CALL}</think>\n\nWell. {CALL}"
    spoken = Spoken(engine, loaded, words, thinking=THINKING, tool_policy=calling(PLAIN), temperature=0.0)
    assert spoken.reasoning == CALL
    assert spoken.text == "Well."
    assert spoken.calls == [("say", '{"kind": "a"}')]
    assert spoken.finish is not None and spoken.finish.reason == FinishReason.TOOL_CALLS
    thought = len(spelled(loaded, f"<think>{CALL}</think>"))
    assert abs(spoken.finish.reasoning_tokens - thought) <= len("<think>")


@pytest.mark.slow
def test_text_that_looks_like_a_call_is_text_in_a_request_without_tools(
    engine: BatchEngine, loaded: LoadedModel
) -> None:
    words = f"{CALL}<|im_end|>"
    spoken = Spoken(engine, loaded, words, temperature=0.0)
    assert (spoken.text, spoken.calls) == (CALL, [])


def test_a_tool_call_cut_off_by_max_tokens_is_text(engine: BatchEngine, loaded: LoadedModel) -> None:
    cut = job("a", held=[spelled(loaded, '<tool_call>{"name')], max_tokens=30, tool_policy=calling(PLAIN))
    deltas = play(engine, [cut])["a", 0]
    assert text(deltas).startswith("<tool_call>") and not calls(deltas)
