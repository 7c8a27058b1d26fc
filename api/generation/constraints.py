"""Translates a request's constraint, under any of its names, to the inner Grammar. Pure.

Rule 1: a request has one constraint; of two, the second is refused by its name.
Rule 2: its size is bounded here; the worker, which knows the tokenizer, compiles it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic_core import from_json

from api.generation.constraint_schemas import Constrained, StructuredOutputs, TypedGrammar
from api.generation.grammars import MAX_BYTES, grammar
from api.generation.refusals import unsupported, wrong
from shared.protocol import Grammar, ToolUse

COMPACT = ""  # allows no whitespace


def constraint(request: Constrained, own: Grammar | None, tool_use: ToolUse | None) -> Grammar | None:
    """``own``: the grammar of the dialect's own field. Raises InvalidRequest or UnsupportedParameter."""
    given = [*([own] if own else []), *_given(request)]
    if len(given) > 1:
        raise wrong(given[1].param, f"it does not go together with '{given[0].param}'")
    if not given:
        return None
    [only] = given
    if tool_use is not None and (only.regex is not None or only.grammar is not None):
        raise unsupported(only.param, "it does not go together with tools that may be called")
    blanks = _whitespace(request)
    return only if blanks is None else only.model_copy(update={"whitespace": blanks})


def _given(request: Constrained) -> Iterator[Grammar]:
    for name, grammar_named in _BY_NAME.items():
        if (said := getattr(request, name)) is not None:
            yield grammar_named(said, name)
    if request.guided_json_object:
        yield grammar(None, "guided_json_object")
    if request.structured_outputs is not None:
        yield from _structured(request.structured_outputs)


def _structured(wanted: StructuredOutputs) -> Iterator[Grammar]:
    of = "structured_outputs"
    if wanted.structural_tag is not None:
        raise unsupported(
            f"{of}.structural_tag", "there is no such grammar; use 'json', 'regex' or 'grammar'"
        )
    if wanted.disable_additional_properties:
        raise unsupported(f"{of}.disable_additional_properties", "say so in the schema")
    if wanted.json_ is not None:
        yield json_of(wanted.json_, f"{of}.json")
    if wanted.json_object:
        yield grammar(None, f"{of}.json_object")
    if wanted.choice:
        yield choice_of(wanted.choice, f"{of}.choice")
    if wanted.regex is not None:
        yield regex_of(wanted.regex, f"{of}.regex")
    if wanted.grammar is not None:
        yield grammar_of(wanted.grammar, f"{of}.grammar")


def _whitespace(request: Constrained) -> str | None:
    of = request.structured_outputs or StructuredOutputs()
    if of.disable_any_whitespace:
        return COMPACT
    pattern = request.guided_whitespace_pattern or of.whitespace_pattern
    if pattern is not None and len(pattern) > 256:
        name = "guided_whitespace_pattern" if request.guided_whitespace_pattern else "structured_outputs"
        raise wrong(name, "the pattern is longer than 256 characters")
    return pattern


# ---------------------------------------------------------------- kinds


def json_of(schema: str | dict[str, Any], param: str) -> Grammar:
    """``schema`` is a schema or its JSON text, alone or in OpenAI's wrapper with a name."""
    if isinstance(schema, str):
        try:
            schema = from_json(schema, allow_inf_nan=False)
        except ValueError as error:
            raise wrong(param, f"it is not JSON: {error}") from error
        if not isinstance(schema, dict):
            raise wrong(param, "it must be a JSON schema, which is an object")
    inner = schema.get("schema")
    return grammar(inner if isinstance(inner, dict) and "name" in schema else schema, param)


def choice_of(choices: Sequence[str], param: str) -> Grammar:
    return grammar_of("start: " + " | ".join(json.dumps(each, ensure_ascii=False) for each in choices), param)


def regex_of(pattern: str, param: str) -> Grammar:
    return Grammar(regex=_bounded(pattern, param), param=param)


def grammar_of(text: str, param: str) -> Grammar:
    return Grammar(grammar=_bounded(text, param), param=param)


def _bounded(text: str, param: str) -> str:
    if len(text.encode()) > MAX_BYTES:
        raise wrong(param, f"it is larger than {MAX_BYTES} bytes")
    return text


def _formatted(wanted: str | dict[str, Any], param: str) -> Grammar:
    return grammar(None, param) if wanted == "json" else json_of(wanted, param)


def _written(wanted: str | TypedGrammar, param: str) -> Grammar:
    if isinstance(wanted, str):
        return grammar_of(wanted, param)
    if wanted.type != "regex":
        return json_of(wanted.value, f"{param}.value")
    if not isinstance(wanted.value, str):
        raise wrong(f"{param}.value", "it must be a regular expression")
    return regex_of(wanted.value, f"{param}.value")


_BY_NAME: dict[str, Callable[[Any, str], Grammar]] = {
    "guided_json": json_of,
    "guided_choice": choice_of,
    "guided_regex": regex_of,
    "guided_grammar": grammar_of,
    "json_schema": json_of,
    "format": _formatted,
    "grammar": _written,
    "regex": regex_of,
    "ebnf": grammar_of,
}
