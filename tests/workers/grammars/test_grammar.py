"""Grammars: texts match what was asked, in a batch as alone, and what cannot be enforced is refused."""

import json
import re
from typing import Any

import jsonschema
import pytest

from shared.errors import InvalidRequest
from shared.protocol import Delta, FinishReason, Grammar
from tests.jobs import job
from tests.marks import quick_and_slow
from tests.tiny_model import make_tiny_llama
from tests.workers.engines import ids, play, text
from tests.workers.schemas import SCHEMAS, WORD, record
from workers.engine.engine import BatchEngine
from workers.grammars.grammar import CACHED, CompiledGrammar, Grammars, Guide, checked_schema
from workers.job import Job
from workers.model.load import LoadedModel, inspect, load
from workers.output.vocabulary import token_bytes

LONG_ENOUGH = 200  # tokens


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model", vocab=300)
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


def guided(grammars: Grammars, name: str, schema: dict[str, Any] | None, **options: Any) -> Job:
    compiled = CompiledGrammar(grammars.text(Grammar(json_schema=schema)), grammars.eos)
    return job(name, grammar=compiled, **{"max_tokens": LONG_ENOUGH, "temperature": 1.0, **options})


def check(deltas: list[Delta], schema: dict[str, Any] | None) -> bool:
    """Whether the text ended by itself; then it must be valid."""
    finish = deltas[-1].finish
    assert finish is not None
    if finish.reason == FinishReason.LENGTH:
        return False
    jsonschema.validate(
        json.loads(text(deltas)), schema or {"type": "object"}, format_checker=jsonschema.FormatChecker()
    )
    return True


def play_schemas(engine: BatchEngine, grammars: Grammars, seeds: range) -> float:
    """Runs a batch of all schemas for every seed; returns the share of texts that ended."""
    ended = []
    for seed in seeds:
        jobs = [
            guided(grammars, str(which), schema, seed=seed, n=1 + seed % 2)
            for which, schema in enumerate(SCHEMAS)
        ]
        ended += [check(choice, SCHEMAS[int(which)]) for (which, _), choice in play(engine, jobs).items()]
    return sum(ended) / len(ended)


def test_a_text_that_ends_by_itself_is_valid_for_its_schema(engine: BatchEngine, grammars: Grammars) -> None:
    assert play_schemas(engine, grammars, range(2)) > 0.95


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_answers_are_valid_for_their_schemas(engine: BatchEngine, grammars: Grammars) -> None:
    assert play_schemas(engine, grammars, range(100, 126)) > 0.95


@pytest.mark.parametrize(
    "options",
    quick_and_slow(
        (
            {"temperature": 0.0},
            {"min_p": 0.1, "frequency_penalty": 1.0},
            {"logit_bias": {2: 100.0}},
            {"logprobs": 3, "n": 3},
        ),
        ({"top_p": 0.9}, {"top_k": 5, "temperature": 1.3}, {"ignore_eos": True, "min_tokens": 3}),
    ),
)
def test_every_sampling_mode_keeps_to_the_grammar(
    engine: BatchEngine, grammars: Grammars, options: dict[str, Any]
) -> None:
    schema = record(name=WORD, colour={"enum": ["red", "green"]})
    for choice in play(engine, [guided(grammars, "a", schema, **options)]).values():
        assert check(choice, schema)


def test_json_object_mode_gives_any_json_object(engine: BatchEngine, grammars: Grammars) -> None:
    jobs = [guided(grammars, str(seed), None, seed=seed, max_tokens=400) for seed in range(8)]
    assert any(check(choice, None) for choice in play(engine, jobs).values())


def test_a_complete_json_object_ends_the_choice_without_another_token(
    engine: BatchEngine, grammars: Grammars
) -> None:
    deltas = play(engine, [guided(grammars, "a", record(kind={"const": "a"}))])["a", 0]
    assert deltas[-1].text.endswith("}")
    assert deltas[-1].finish is not None and deltas[-1].finish.reason == FinishReason.STOP


def test_the_model_may_stop_where_the_grammar_allows_it(engine: BatchEngine, grammars: Grammars) -> None:
    whole = guided(grammars, "a", {"type": "integer"}, logit_bias={2: 50.0})
    deltas = play(engine, [whole])["a", 0]
    assert ids(deltas)[-1] == 2 and check(deltas, {"type": "integer"})


@pytest.mark.parametrize("cut", quick_and_slow((7,), (1, 15)))
def test_a_resumed_object_goes_on_as_the_unbroken_one(
    engine: BatchEngine, grammars: Grammars, cut: int
) -> None:
    schema = record(name=WORD, tags={"type": "array", "items": WORD, "maxItems": 2})
    whole = play(engine, [guided(grammars, "a", schema)])["a", 0]
    held = guided(grammars, "b", schema, held=[ids(whole)[:cut]])
    resumed = play(engine, [held, job("other", [5, 6])])["b", 0]
    assert ids(resumed) == ids(whole)[cut:]
    assert text(resumed) == text(whole[cut:])
    assert resumed[-1].finish == whole[-1].finish


def test_sequences_with_and_without_a_grammar_do_not_change_each_other(
    engine: BatchEngine, grammars: Grammars
) -> None:
    free = [job(f"free{i}", [9, i + 3], max_tokens=30, seed=i, ignore_eos=True) for i in range(3)]
    bound = [guided(grammars, f"bound{i}", SCHEMAS[i + 1], seed=i) for i in range(3)]
    together = play(engine, [job for pair in zip(free, bound, strict=True) for job in pair], steps_between=2)
    for each in [*free, *bound]:
        alone = play(engine, [each])[each.request_id, 0]
        assert ids(together[each.request_id, 0]) == ids(alone)


# ---------------------------------------------------------------- the guide


def spelled(loaded: LoadedModel, words: str) -> list[int]:
    found: list[int] = loaded.tokenizer.encode(words)
    return found


def state(guide: Guide, taken: list[int]) -> str:
    for id in taken:
        guide.take(id)
    return (
        "sleeping"
        if guide.sleeping
        else "failed"
        if guide.failed
        else "complete"
        if guide.complete
        else "open"
    )


def test_hundreds_of_optional_properties_can_be_followed(loaded: LoadedModel, grammars: Grammars) -> None:
    schema = {"type": "object", "properties": {f"key{i}": WORD for i in range(900)}}
    guide = CompiledGrammar(grammars.text(Grammar(json_schema=schema)), grammars.eos).guide(
        token_bytes(loaded.tokenizer)
    )
    for id in spelled(loaded, '{"key8": "a", "key80":'):
        guide.mask()
        guide.take(id)
    assert not guide.failed


def test_a_guide_allows_everything_until_the_end_of_thinking(loaded: LoadedModel, grammars: Grammars) -> None:
    vocabulary = token_bytes(loaded.tokenizer)
    compiled = CompiledGrammar(grammars.text(Grammar(json_schema={"enum": [1]})), grammars.eos, b"</think>")
    assert state(compiled.guide(vocabulary), spelled(loaded, "I {think}</thin")) == "sleeping"
    assert (
        state(compiled.guide(vocabulary), spelled(loaded, "I {think}</think>") + spelled(loaded, "1"))
        == "complete"
    )


def test_a_sleeping_guide_forbids_only_the_end_of_the_text(grammars: Grammars, loaded: LoadedModel) -> None:
    compiled = CompiledGrammar(grammars.text(Grammar()), grammars.eos, b"</think>")
    mask = compiled.guide(token_bytes(loaded.tokenizer)).mask()
    forbidden = [id for id in range(len(loaded.tokenizer)) if not mask[id // 8] >> (id % 8) & 1]
    assert forbidden == list(grammars.eos)


def test_a_token_the_grammar_forbids_fails_the_guide_and_ends_the_choice(
    grammars: Grammars, engine: BatchEngine, loaded: LoadedModel
) -> None:
    assert (
        state(CompiledGrammar(grammars.text(Grammar()), grammars.eos).guide([b""]), spelled(loaded, "x"))
        == "failed"
    )
    wrong = guided(grammars, "a", None, held=[spelled(loaded, "x")])
    (only,) = play(engine, [wrong])["a", 0]
    assert only.finish is not None and only.finish.reason == FinishReason.LENGTH


def test_a_model_with_a_grammar_may_think_first_or_begin_at_once(
    grammars: Grammars, loaded: LoadedModel
) -> None:
    vocabulary = token_bytes(loaded.tokenizer)
    think = spelled(loaded, "~")[0]
    one = CompiledGrammar(grammars.text(Grammar(json_schema={"enum": [1]})), grammars.eos, b"</think>", think)
    mask = one.guide(vocabulary).mask()
    may = [id for id in range(len(loaded.tokenizer)) if mask[id // 8] >> (id % 8) & 1]
    assert may == sorted([think, spelled(loaded, "1")[0]])
    assert state(one.guide(vocabulary), spelled(loaded, "~hm")) == "sleeping"
    assert state(one.guide(vocabulary), spelled(loaded, "~hm</think>") + spelled(loaded, "1")) == "complete"
    assert state(one.guide(vocabulary), spelled(loaded, "1")) == "complete"


# ---------------------------------------------------------------- refusals


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"type": "string"}},
        {"type": "string", "format": "no such format"},
        {"type": "no such type"},
        {"enum": []},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "#/$defs/missing"},
        {"type": "string", "pattern": "("},
        nested(40),
        {"description": "x" * 70_000, "type": "null"},
    ],
)
def test_a_schema_or_grammar_that_cannot_be_enforced_is_refused_by_name(
    grammars: Grammars, schema: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        grammars.text(Grammar(json_schema=schema))
    assert refused.value.param == "response_format"


def test_a_schema_as_deep_as_allowed_is_taken(grammars: Grammars) -> None:
    grammars.text(Grammar(json_schema=nested(30)))


def test_a_schema_is_compiled_once(grammars: Grammars) -> None:
    first = grammars.text(Grammar(json_schema=SCHEMAS[1]))
    assert grammars.text(Grammar(json_schema=SCHEMAS[1])) is first


def test_the_cache_of_compiled_grammars_is_bounded(grammars: Grammars) -> None:
    first = grammars.text(Grammar(json_schema={"const": "first"}))
    for i in range(CACHED):
        grammars.text(Grammar(json_schema={"const": i}))
    assert grammars.text(Grammar(json_schema={"const": "first"})) is not first
    assert len(grammars._cache) == CACHED


def test_a_schema_that_is_slow_to_compile_is_refused(grammars: Grammars) -> None:
    impatient = Grammars(grammars._tokenizer, seconds=0.0)
    with pytest.raises(InvalidRequest, match="compile"):
        impatient.text(Grammar(json_schema=record(slow={"enum": list(range(5000))})))


def test_a_property_named_ref_is_no_reference() -> None:
    assert "$ref" in checked_schema({"properties": {"$ref": {"type": "string"}}})


def spelled_by(engine: BatchEngine, grammars: Grammars, grammar: Grammar, seed: int) -> str:
    one = job(
        "one",
        grammar=CompiledGrammar(grammars.text(grammar), grammars.eos),
        seed=seed,
        temperature=1.0,
        max_tokens=40,
    )
    [deltas] = play(engine, [one]).values()
    return text(deltas)


GBNF = """root ::= answer "!"
answer ::= "yes" | "no" [0-9]
"""


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (Grammar(regex="[a-c]{2,3}x"), "[a-c]{2,3}x"),
        (Grammar(grammar='start: "red" | "grün" | "blue 🎉"'), "red|grün|blue 🎉"),
        (Grammar(grammar=GBNF), "(yes|no[0-9])!"),
        (Grammar(json_schema=record(a={"const": 1}), whitespace=""), r'\{"a":1\}'),
    ],
)
def test_a_text_matches_the_regex_or_grammar_that_was_asked(
    engine: BatchEngine, grammars: Grammars, grammar: Grammar, pattern: str
) -> None:
    for seed in range(4):
        assert re.fullmatch(pattern, spelled_by(engine, grammars, grammar, seed))


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar(regex="("),
        Grammar(regex="(?=a)b"),
        Grammar(grammar="start: nowhere"),
        Grammar(grammar="no grammar at all"),
        Grammar(grammar="root ::= " + "(" * 5000),
        Grammar(grammar='answer ::= "a"'),
        Grammar(grammar="start: <[99999999]>"),
        Grammar(json_schema={}, whitespace="("),
    ],
)
def test_an_invalid_regex_or_grammar_is_refused_by_its_field(grammars: Grammars, grammar: Grammar) -> None:
    with pytest.raises(InvalidRequest) as refused:
        grammars.text(grammar.model_copy(update={"param": "guided_grammar"}))
    assert refused.value.param == "guided_grammar"


def test_a_schema_and_an_expression_of_the_same_text_are_two_grammars(grammars: Grammars) -> None:
    one = '{"const":1}'
    with pytest.raises(InvalidRequest):
        grammars.text(Grammar(regex=one))
    schema = grammars.text(Grammar(json_schema=json.loads(one)))
    with pytest.raises(InvalidRequest):
        grammars.text(Grammar(regex=one))
    assert grammars.text(Grammar(json_schema=json.loads(one), whitespace="")) is not schema
