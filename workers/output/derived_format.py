"""Joins what the chat template tells of a model's output with the table of tool formats.

Rule 1: a derived call format that is proved comes before the table, whose readers stay only where they read the same.
Rule 2: a call is demanded only in a syntax that the reader reads, and several only where it reads two; both are tried
with a sample when the model loads.
"""

import json
from dataclasses import replace
from typing import Any

from workers.chat_template.analysis import TemplateAnalysis
from workers.chat_template.call_format import COUNT_HOLE, ID_HOLE, KEY_HOLE, NAME_HOLE, CallFormat
from workers.output.call_grammar import starts_of
from workers.output.channels import MARKS, ChannelFilter, channels_of
from workers.output.derived_calls import call_filter
from workers.output.tool_calls import ToolPolicy
from workers.output.tool_formats import CallSyntax, Channels, ModelOutputFormat, ToolFormat, special_in

_FILLED = {NAME_HOLE: "{name}", KEY_HOLE: "{key}", COUNT_HOLE: "0", ID_HOLE: "call00000"}

_SAMPLE: dict[str, Any] = {"text": "a b", "n": 3}
_SCHEMA = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["text", "n"],
}
_TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": _SCHEMA}}]


def with_analysis(
    output_format: ModelOutputFormat, tokenizer: Any, analysis: TemplateAnalysis
) -> ModelOutputFormat:
    """``output_format``: by the table; ``analysis``: of the tokenizer's chat template."""
    channels = channels_of(getattr(tokenizer, "chat_template", None))
    tools = _tools(output_format.tools, analysis) if channels is None else _in_channels(channels, analysis)
    thinking, answer = output_format.thinking, ("", "")
    if (marks := analysis.thinking) is not None and (thinking is None or marks.evidence != "vocabulary"):
        thinking, answer = (marks.open, marks.close), (marks.answer, marks.answer_end)
    delimiters = [
        *(thinking or ()),
        *answer,
        *(tools.delimiters if tools else ()),
        *(MARKS if channels else ()),
    ]
    think_id = _token(tokenizer, thinking) if output_format.think_id is None else output_format.think_id
    return ModelOutputFormat(tools, thinking, answer, think_id, special_in(tokenizer, delimiters), channels)


def _tools(table: ToolFormat | None, analysis: TemplateAnalysis) -> ToolFormat | None:
    if not analysis.demands.shows_tools:
        return None  # they are described in our words
    if analysis.format is None:
        return replace(table, syntax=_demandable(table, table.syntax)) if table else None
    derived = tool_format_of(analysis.format)
    if table is not None and (not analysis.proved or _streams(table, derived.syntax)):
        return replace(table, syntax=_demandable(table, table.syntax, derived.syntax))
    inner = (*derived.inner, *(table.delimiters if table else ()))
    syntax = _demandable(derived, derived.syntax, table.syntax if table else None)
    return replace(derived, inner=inner, syntax=syntax)


def _in_channels(channels: Channels, analysis: TemplateAnalysis) -> ToolFormat | None:
    """Read by ``ChannelFilter``."""
    if not analysis.demands.shows_tools or analysis.format is None:
        return None
    tools = tool_format_of(analysis.format)
    syntax = channels.call or tools.syntax
    if syntax is None or not _is_read(tools, syntax, channels=True):
        return replace(tools, syntax=None)
    return replace(tools, syntax=replace(syntax, thinking=channels.thinking))


def _streams(table: ToolFormat, syntax: CallSyntax | None) -> bool:
    """Whether the table's reader streams arguments, and reads what the model's template shows."""
    if table.stream is None or syntax is None or not table.stream.head.search(_written(syntax)):
        return False
    return _is_read(table, syntax)


def _demandable(tools: ToolFormat, *candidates: CallSyntax | None) -> CallSyntax | None:
    """The first of the candidates that is read; ``several`` says whether two calls are."""
    syntax = next((each for each in candidates if each and _is_read(tools, each)), None)
    if syntax is None or (tools.format and not tools.format.several):
        return syntax
    return replace(syntax, several=_is_read(tools, syntax, calls=2))


def _is_read(tools: ToolFormat, syntax: CallSyntax, *, calls: int = 1, channels: bool = False) -> bool:
    policy = ToolPolicy(tools, frozenset({"look_up"}), _TOOLS)
    filter = ChannelFilter("assistant", policy) if channels else call_filter(policy, "sample")
    found = [filter.push(_written(syntax, calls)), filter.flush(closed=True)]
    pieces = [piece for each in found for piece in each.calls]
    arguments = ["".join(piece.arguments for piece in pieces if piece.index == i) for i in range(calls)]
    try:
        return [piece.name for piece in pieces if piece.name] == ["look_up"] * calls and (
            [json.loads(each) for each in arguments] == [_SAMPLE] * calls
        )
    except ValueError:
        return False


def _written(syntax: CallSyntax, calls: int = 1) -> str:
    """The sample call in this syntax, so many times."""
    if syntax.key is None:
        body = json.dumps(_SAMPLE)
        body = json.dumps(body)[1:-1] if syntax.as_text else body
    else:
        values = [_value(syntax, key, value) for key, value in _SAMPLE.items()]
        body = syntax.comma.join(values)
    call = syntax.opening.replace("{name}", "look_up") + body + syntax.closing
    return syntax.outer[0] + syntax.between.join([call] * calls) + syntax.outer[1]


def _value(syntax: CallSyntax, key: str, value: Any) -> str:
    before, behind = syntax.quotes or ('"', '"')
    text = before + value + behind if isinstance(value, str) else json.dumps(value)
    mark = syntax.key if isinstance(value, str) else syntax.key_by_type.get("number", syntax.key)
    return ((mark or "") + text + syntax.after).replace("{key}", key)


def _token(tokenizer: Any, thinking: tuple[str, str] | None) -> int | None:
    """What opens the thinking, if it is one token."""
    if thinking is None:
        return None
    return next(
        (int(id) for id, token in tokenizer.added_tokens_decoder.items() if token.content == thinking[0]),
        None,
    )


def tool_format_of(format: CallFormat) -> ToolFormat:
    """Its calls are read by ``CallReader``, which needs no parser of whole calls."""
    inner = tuple(map(_filled, format.marks))
    return ToolFormat("", "", _no_parser, syntax_of(format), None, inner, format, starts_of(format))


def syntax_of(format: CallFormat) -> CallSyntax | None:
    """How a demanded call is written; None where a grammar cannot say it."""
    outer, opening, closing = (
        (_filled(format.outer[0]), _filled(format.outer[1])),
        _filled(format.opening),
        _filled(format.closing),
    )
    between = _filled(format.between)
    if format.kind == "name_json":
        return CallSyntax(opening, closing, outer, between)
    if format.kind == "tagged":
        as_json = format.escaped and format.values != "loose"
        return _keyed(format, outer, None if as_json else format.quotes)
    as_text = format.arguments_as_text
    quote = '"' if as_text else ""
    if format.name_is_key:
        return CallSyntax(
            opening + '{"{name}": ' + quote, quote + "}" + closing, outer, between, as_text=as_text
        )
    if len(format.name) != 1 or len(format.arguments) != 1:
        return None
    head = f'{{"{format.name[0]}": "{{name}}", "{format.arguments[0]}": {quote}'
    if format.kind == "json_list":
        return CallSyntax(head, quote + "}", (outer[0] + "[", "]" + outer[1]), ", ", as_text=as_text)
    return CallSyntax(opening + head, quote + "}" + closing, outer, between, as_text=as_text)


def _keyed(format: CallFormat, outer: tuple[str, str], quotes: tuple[str, str] | None) -> CallSyntax:
    return CallSyntax(
        _filled(format.opening),
        _filled(format.closing),
        outer,
        _filled(format.between),
        key=_filled(format.key),
        key_by_type={kind: _filled(mark) for kind, mark in format.key_by_type.items()},
        after=_filled(format.after),
        comma=format.comma,
        quotes=quotes,
        nested=format.values == "tags",
    )


def _filled(mark: str) -> str:
    for hole, word in _FILLED.items():
        mark = mark.replace(hole, word)
    return mark


def _no_parser(text: str, tools: Any) -> Any:
    raise ValueError("read by CallReader")
