"""How each model family writes its tool calls: the delimiters around them and the syntax between them.

Rule 1: mlx-lm's parser of the family reads whole calls. This file holds only what that parser does not say.
Rule 2: arguments that are written as one JSON object are streamed; the pattern ``head`` ends right before that object.
Rule 3: a family without a syntax here can still be parsed, but its model cannot be forced to call.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workers.chat_template.call_format import CallFormat

Parse = Callable[[str, Any], Any]  # (text between the delimiters, tools) -> calls; may raise any exception


@dataclass(frozen=True)
class CallSyntax:
    """The text of a call. ``{name}`` stands for the tool's name, ``{key}`` for the argument's.

    ``key`` None: the arguments are one JSON object; ``as_text``: inside a JSON string. ``key_by_type``: what stands in
    place of ``key`` before a number, boolean, null, object or array. ``quotes``: delimiters of strings; None: strings
    are JSON. ``several``: more than one call may be demanded. ``nested``: the members of objects and arrays are written
    like arguments, an array's with the key ``item``.
    """

    opening: str
    closing: str
    outer: tuple[str, str] = ("", "")  # before the first call, behind the last
    between: str = ""  # between two calls
    as_text: bool = False
    key: str | None = None
    key_by_type: Mapping[str, str] = field(default_factory=dict)
    after: str = ""  # behind each value
    comma: str = ""  # between two arguments
    quotes: tuple[str, str] | None = None
    several: bool = False
    nested: bool = False
    thinking: tuple[str, str] | None = None  # around thinking that may precede a call in the same grammar


@dataclass(frozen=True)
class ArgumentStream:
    """``head`` matches what precedes the arguments and has the group ``name``; ``tail`` matches what follows them."""

    head: re.Pattern[str]
    tail: re.Pattern[str]


@dataclass(frozen=True)
class ToolFormat:
    """``start`` and ``end`` delimit calls; an empty ``end`` means that calls last until the end of the text."""

    start: str
    end: str
    parse: Parse
    syntax: CallSyntax | None = None
    stream: ArgumentStream | None = None
    inner: tuple[str, ...] = ()  # delimiters inside a call that may be special tokens
    format: CallFormat | None = None  # derived from the template: it reads the calls instead of ``parse``
    also_starts: tuple[str, ...] = ()  # other words that begin a call

    @property
    def starts(self) -> tuple[str, ...]:
        return (self.start, *self.also_starts) if self.start else self.also_starts

    @property
    def delimiters(self) -> tuple[str, ...]:
        return tuple(delimiter for delimiter in (self.start, self.end, *self.inner) if delimiter)


@dataclass(frozen=True)
class Channels:
    """``answer`` matches the header of an answer, of which ``final`` is the plainest form.

    ``thinking``: what opens thinking, and what closes it and opens the next message.
    """

    answer: re.Pattern[bytes]
    final: str
    thinking: tuple[str, str]
    call: CallSyntax | None = None  # as models write it, where their template shows something else


@dataclass(frozen=True)
class ModelOutputFormat:
    """How a model delimits tool calls and thinking in its output, read from its tokenizer and chat template.

    ``tools`` None: the template knows no tools, so the system message describes them and PLAIN is the format.
    ``answer``: what opens and closes the answer behind the thinking, in templates that delimit the answer too.
    ``channels``: where answers are messages with headers (see ``channels.py``).
    ``think_id``: the token that opens the thinking, where one token does.
    ``special``: the ids of the special tokens that delimit calls or thinking, by their text.
    """

    tools: ToolFormat | None = None
    thinking: tuple[str, str] | None = None
    answer: tuple[str, str] = ("", "")
    think_id: int | None = None
    special: Mapping[str, int] = field(default_factory=dict)
    channels: Channels | None = None


_JSON_HEAD = r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
_JSON_STREAM = ArgumentStream(re.compile(_JSON_HEAD), re.compile(r"\s*\}?\s*"))


def _json_syntax(start: str, end: str) -> CallSyntax:
    return CallSyntax(start + '\n{"name": "{name}", "arguments": ', "}\n" + end, between="\n")


_SYNTAXES = {
    "json_tools": _json_syntax("<tool_call>", "</tool_call>"),
    "longcat": _json_syntax("<longcat_tool_call>", "</longcat_tool_call>"),
    "mistral": CallSyntax("[TOOL_CALLS]{name}[ARGS]", ""),
    "mistral_list": CallSyntax(  # tokenizers without [ARGS]
        '{"name": "{name}", "arguments": ', "}", outer=("[TOOL_CALLS][", "]"), between=", "
    ),
    "kimi_k2": CallSyntax(
        "<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        outer=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ),
    "kimi_k3": CallSyntax(
        '<|open|>call tool="{name}" index="1"<|sep|><|open|>json type="object"<|sep|>',
        "<|close|>json<|sep|><|close|>call<|sep|>",
        outer=("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
    ),
    "glm47": CallSyntax(
        "<tool_call>{name}",
        "</tool_call>",
        key="<arg_key>{key}</arg_key><arg_value>",
        after="</arg_value>",
        quotes=("", ""),
    ),
    "qwen3_coder": CallSyntax(
        "<tool_call>\n<function={name}>\n",
        "</function>\n</tool_call>",
        between="\n",
        key="<parameter={key}>\n",
        after="\n</parameter>\n",
        quotes=("", ""),
    ),
    "minimax_m2": CallSyntax(
        '<invoke name="{name}">\n',
        "</invoke>\n",
        outer=("<minimax:tool_call>\n", "</minimax:tool_call>"),
        key='<parameter name="{key}">',
        after="</parameter>\n",
        quotes=("", ""),
    ),
    "minicpm5": CallSyntax(
        '<function name="{name}">',
        "</function>",
        key='<param name="{key}">',
        after="</param>",
        quotes=("", ""),
    ),
    "muse_spark": CallSyntax(
        '<atem:invoke name="{name}">\n',
        "</atem:invoke>\n",
        outer=("<atem:function_calls>\n", "</atem:function_calls>"),
        key='<atem:parameter name="{key}">',
        after="</atem:parameter>\n",
    ),
    "pythonic": CallSyntax(
        "{name}(",
        ")",
        outer=("<|tool_call_start|>[", "]<|tool_call_end|>"),
        between=", ",
        key="{key}=",
        comma=", ",
    ),
    "function_gemma": CallSyntax(
        "<start_function_call>call:{name}{",
        "}<end_function_call>",
        key="{key}:",
        comma=",",
        quotes=("<escape>", "<escape>"),
    ),
    "gemma4": CallSyntax(
        "<|tool_call>call:{name}{",
        "}<tool_call|>",
        key="{key}:",
        comma=",",
        quotes=('<|"|>', '<|"|>'),
    ),
}

_STREAMS = {
    "json_tools": _JSON_STREAM,
    "longcat": _JSON_STREAM,
    "mistral": ArgumentStream(
        re.compile(r"\s*(?P<name>[\w-]+)\s*\[ARGS\]\s*(?=\{)"), re.compile(r"\s*(?:\[TOOL_CALLS\])?\s*")
    ),
    "kimi_k2": ArgumentStream(
        re.compile(
            r"\s*(?:<\|tool_call_begin\|>)?\s*(?:functions\.)?(?P<name>[^:\s<]+):\d+"
            r"\s*<\|tool_call_argument_begin\|>\s*(?=\{)"
        ),
        re.compile(r"\s*(?:<\|tool_call_end\|>)?\s*"),
    ),
}

_INNER = {
    "mistral": ("[ARGS]", "[CALL_ID]"),
    "kimi_k2": ("<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    "kimi_k3": ("<|open|>", "<|close|>", "<|sep|>"),
    "gemma4": ('<|"|>',),
    "function_gemma": ("<escape>",),
}


def plain_parse(text: str, tools: Any = None) -> Any:
    return json.loads(text)


PLAIN = ToolFormat(
    "<tool_call>",
    "</tool_call>",
    plain_parse,
    syntax=CallSyntax(
        '<tool_call>{"name": "{name}", "arguments": ', "}</tool_call>", between="\n", several=True
    ),
    stream=_JSON_STREAM,
)


def tool_format_named(name: str, start: str, end: str, parse: Parse) -> ToolFormat:
    """``name`` is the module name of mlx-lm's parser; ``start`` and ``end`` are its delimiters."""
    return ToolFormat(start, end, parse, _SYNTAXES.get(name), _STREAMS.get(name), _INNER.get(name, ()))


def output_format_of(tokenizer: Any) -> ModelOutputFormat:
    """``tokenizer`` is mlx-lm's wrapper."""
    tools = None
    if tokenizer.has_tool_calling:
        parse = tokenizer.tool_parser
        name = parse.__module__.rpartition(".")[2]
        if name == "mistral" and "[ARGS]" not in tokenizer.get_vocab():
            name = "mistral_list"
        tools = tool_format_named(name, tokenizer.tool_call_start, tokenizer.tool_call_end, parse)
    thinking = (tokenizer.think_start, tokenizer.think_end) if tokenizer.has_thinking else None
    special = special_in(tokenizer, [*(thinking or ()), *(tools.delimiters if tools else ())])
    opening: tuple[int, ...] = tokenizer.think_start_tokens or ()
    think_id = opening[0] if len(opening) == 1 else None
    return ModelOutputFormat(tools, thinking, think_id=think_id, special=special)


def special_in(tokenizer: Any, delimiters: Iterable[str]) -> dict[str, int]:
    """The ids of the special tokens that are part of any of these delimiters, by their text."""
    delimiters = list(delimiters)
    return {
        token.content: int(id)
        for id, token in tokenizer.added_tokens_decoder.items()
        if token.special and any(token.content in delimiter for delimiter in delimiters)
    }
