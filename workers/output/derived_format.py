"""A call format that was derived from a template, as the formats of the table are: to be read, and to be demanded."""

from dataclasses import replace
from typing import Any

from workers.chat_template.analysis import TemplateAnalysis
from workers.chat_template.call_format import COUNT_HOLE, ID_HOLE, KEY_HOLE, NAME_HOLE, CallFormat
from workers.chat_template.marks import is_strong, tokens_of
from workers.output.tool_formats import CallSyntax, OutputFormat, ToolFormat, special_in

_FILLED = {NAME_HOLE: "{name}", KEY_HOLE: "{key}", COUNT_HOLE: "0", ID_HOLE: "call00000"}


def with_analysis(output_format: OutputFormat, tokenizer: Any, analysis: TemplateAnalysis) -> OutputFormat:
    """What the table says of a model, completed by what its template tells.

    A family of the table that streams arguments keeps its reader; others are read by a form that is proved.
    """
    tools, format = output_format.tools, analysis.format
    if not analysis.demands.shows_tools:
        tools = None  # they are described in our words
    elif format is not None and tools is None:
        tools = tool_format_of(format)
    elif format is not None and tools is not None and tools.stream is None and analysis.proved:
        derived = tool_format_of(format)
        syntax, inner = tools.syntax or derived.syntax, (*derived.inner, *tools.delimiters)
        tools = replace(derived, syntax=syntax, inner=inner)
    thinking, answer = output_format.thinking, ""
    if (marks := analysis.thinking) is not None and thinking in (None, (marks.open, marks.close)):
        thinking, answer = (marks.open, marks.close), marks.answer
    special = special_in(tokenizer, [*(thinking or ()), answer, *(tools.delimiters if tools else ())])
    think_id = output_format.think_id
    return OutputFormat(
        tools, thinking, answer, _token(tokenizer, thinking) if think_id is None else think_id, special
    )


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
    marks = [token for mark in format.marks for token in tokens_of(_filled(mark)) if is_strong(token)]
    return ToolFormat(
        marks[0] if marks else "", "", _no_parser, syntax_of(format), inner=format.marks, format=format
    )


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
        if format.values in ("tags", "loose") or format.key_by_type or format.escaped:
            return None if format.key_by_type or format.values == "tags" else _keyed(format, outer, None)
        return _keyed(format, outer, format.quotes)
    if format.name_is_key:
        return CallSyntax(opening + '{"{name}": ', "}" + closing, outer, between)
    if len(format.name) != 1 or len(format.arguments) != 1 or format.arguments_as_text:
        return None
    head = f'{{"{format.name[0]}": "{{name}}", "{format.arguments[0]}": '
    if format.kind == "json_list":
        return CallSyntax(head, "}", (outer[0] + "[", "]" + outer[1]), ", ")
    return CallSyntax(opening + head, "}" + closing, outer, between)


def _keyed(format: CallFormat, outer: tuple[str, str], quotes: tuple[str, str] | None) -> CallSyntax:
    if format.values == "loose":
        quotes = format.quotes
    return CallSyntax(
        _filled(format.opening),
        _filled(format.closing),
        outer,
        _filled(format.between),
        key=_filled(format.key),
        after=_filled(format.after),
        comma=format.comma,
        quotes=quotes,
    )


def _filled(mark: str) -> str:
    for hole, word in _FILLED.items():
        mark = mark.replace(hole, word)
    return mark


def _no_parser(text: str, tools: Any) -> Any:
    raise ValueError("read by CallReader")
