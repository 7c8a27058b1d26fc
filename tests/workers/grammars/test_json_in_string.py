"""Arguments as JSON text in a JSON string: what the grammar allows is read back, and every valid call is allowed."""

import json
import random
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.marks import examples
from tests.workers.engines import play
from tests.workers.grammars.test_tool_grammar import TOOLS, calling, check, must_call, tool
from workers.chat_template.call_format import CallFormat
from workers.engine.engine import BatchEngine
from workers.grammars.grammar import Grammars
from workers.grammars.json_in_string import escaped
from workers.model.load import LoadedModel
from workers.output.derived_format import tool_format_of

AS_TEXT = tool_format_of(CallFormat("json", opening="<call>", closing="</call>", arguments_as_text=True))
Accepts = Callable[[dict[str, Any], str], bool]
KEYS = st.text('ab"\\\n é{', min_size=1, max_size=4)


def record(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


LEAVES = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "number"},
        {"type": "boolean"},
        {"type": "null"},
        {"type": ["string", "null"]},
        {"enum": ["x", 'a"b', "c\\d", 3, None, "é\n"]},
        {"const": {"k": ['"']}},
        {},
        {"$ref": "#/$defs/word"},
    ]
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        st.builds(lambda item: {"type": "array", "items": item}, inner)
        | st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=2))
        | st.builds(
            lambda members, few: record(members, [key for key in members if hash(key) % 2 or few]),
            st.dictionaries(KEYS, inner, max_size=3),
            st.booleans(),
        )
    ),
    max_leaves=5,
)


def value_of(schema: dict[str, Any], dice: random.Random) -> Any:
    """One that the schema allows."""
    texts = ["", 'a"b', "\\", "\n\t\r\b\f/", "é東👩", '{"a": 1}', '\\\\"\\n', "</call>"]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return dice.choice(schema["enum"])
    if "anyOf" in schema:
        return value_of(dice.choice(schema["anyOf"]), dice)
    kinds = schema.get("type", ["string", "object", "array", "null"])
    match dice.choice(kinds) if isinstance(kinds, list) else kinds:
        case "object" if "properties" in schema:
            members = schema["properties"].items()
            kept = [one for one in members if one[0] in schema["required"] or dice.random() < 0.5]
            return {key: value_of(each, dice) for key, each in kept}
        case "array" if "items" in schema:
            return [value_of(schema["items"], dice) for _ in range(dice.randrange(3))]
        case "object":
            return {dice.choice(texts): dice.choice([1, None, [True, {}]])}
        case "array":
            return [dice.choice(texts), -1.5e-7, []]
        case "integer":
            return dice.choice([0, -1, 12345678901234567])
        case "number":
            return dice.choice([0.5, -3, 1e20, 1.25e-7])
        case "boolean":
            return dice.random() < 0.5
        case "null":
            return None
    return dice.choice(texts)


@pytest.fixture(scope="module")
def accepts(grammars: Grammars, loaded: LoadedModel) -> Accepts:
    """Whether a text may be written where a call of a tool with these parameters is demanded."""

    def accepted(parameters: dict[str, Any], text: str) -> bool:
        matcher = grammars.calls(calling(AS_TEXT, "f", tools=[tool("f", parameters)]), {}).deep_copy()
        ids = loaded.tokenizer.encode(text, add_special_tokens=False)
        return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())

    return accepted


def written(arguments: str) -> str:
    return f'<call>{{"name": "f", "arguments": "{escaped(arguments)}"}}</call>'


@examples(60)
@given(
    members=st.dictionaries(KEYS, SCHEMAS, min_size=1, max_size=3),
    seed=st.integers(0, 1 << 30),
    compact=st.booleans(),
)
def test_every_call_that_is_valid_for_its_schema_may_be_written(
    accepts: Accepts, members: dict[str, Any], seed: int, compact: bool
) -> None:
    parameters = {**record(members, list(members)[:1]), "$defs": {"word": {"enum": ["one", "two"]}}}
    plain = json.loads(json.dumps(parameters).replace('{"$ref": "#/$defs/word"}', '{"enum": ["one", "two"]}'))
    value = value_of(plain, random.Random(seed))
    jsonschema.validate(value, parameters)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":") if compact else None)
    assert accepts(parameters, written(text))


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": 1',
        '{"a": "x"}',
        '{"b": 1}',
        "{}",
        '{"a": 1, "b": 2}',
        '{"a": 01}',
        "[1]",
        '{"a": 1} ',
        '{"a": 1}}',
    ],
)
def test_a_call_that_is_not_valid_for_its_schema_may_not_be_written(accepts: Accepts, arguments: str) -> None:
    parameters = record({"a": {"type": "integer"}}, ["a"])
    assert not accepts(parameters, written(arguments))
    assert not accepts(parameters, written('{"a": 1}').replace("\\", ""))
    assert accepts(parameters, written('{"a": 1}'))


def test_a_demanded_call_is_generated_and_read_back(engine: BatchEngine, grammars: Grammars) -> None:
    jobs = [must_call(grammars, str(seed), calling(AS_TEXT, tools=TOOLS), seed=seed) for seed in range(8)]
    for deltas in play(engine, jobs).values():
        check(deltas)
