"""How each family of models writes its tool calls: the marks around them, and the form of what is between.

Rule 1: mlx-lm's parser of the family reads whole calls; here is only what it does not say.
Rule 2: arguments that are written as one JSON object are streamed as they come; ``head`` ends right before it.
Rule 3: a family without an entry here can still be read, but not be made to call.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Parse = Callable[[str, Any], Any]  # (what is between the marks, the tools) -> calls; raises nearly anything


@dataclass(frozen=True)
class Form:
    """A call as the model writes it. ``{name}`` and ``{key}`` stand for the tool's and the argument's.

    ``key`` None: the arguments are one JSON object. ``quotes``: around strings; None: strings are JSON too.
    """

    opening: str
    closing: str
    outer: tuple[str, str] = ("", "")  # around all calls
    between: str = ""  # two calls
    key: str | None = None
    after: str = ""  # a value
    comma: str = ""  # between two arguments
    quotes: tuple[str, str] | None = None


@dataclass(frozen=True)
class Stream:
    """``head`` leads to the arguments and has the group ``name``; ``tail`` leads from them to the end or a head."""

    head: re.Pattern[str]
    tail: re.Pattern[str]


@dataclass(frozen=True)
class Family:
    """``end`` is empty where calls go on to the end of the text."""

    start: str
    end: str
    parse: Parse
    form: Form | None = None
    stream: Stream | None = None
    inner: tuple[str, ...] = ()  # marks inside of a call, which tokenizers may call special

    @property
    def marks(self) -> tuple[str, ...]:
        return (self.start, self.end, *self.inner)


@dataclass(frozen=True)
class Dialect:
    """What a model's tokenizer and template say beside the text: calls and thinking.

    ``family`` None: the template knows no tools, and they are described by us, in the form PLAIN.
    ``think``: the token that opens the thinking, if it is one.
    ``special``: special tokens that are marks of calls or of thinking, and their ids.
    """

    family: Family | None = None
    thinking: tuple[str, str] | None = None
    think: int | None = None
    special: Mapping[str, int] = field(default_factory=dict)


_JSON_HEAD = r'\s*\{\s*"name"\s*:\s*"(?P<name>[^"\\]+)"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
_JSON_STREAM = Stream(re.compile(_JSON_HEAD), re.compile(r"\s*\}?\s*"))


def _json_form(start: str, end: str) -> Form:
    return Form(start + '\n{"name": "{name}", "arguments": ', "}\n" + end, between="\n")


_FORMS = {
    "json_tools": _json_form("<tool_call>", "</tool_call>"),
    "longcat": _json_form("<longcat_tool_call>", "</longcat_tool_call>"),
    "mistral": Form("[TOOL_CALLS]{name}[ARGS]", ""),
    "mistral_list": Form(  # tokenizers without [ARGS]
        '{"name": "{name}", "arguments": ', "}", outer=("[TOOL_CALLS][", "]"), between=", "
    ),
    "kimi_k2": Form(
        "<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        outer=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    ),
    "kimi_k3": Form(
        '<|open|>call tool="{name}" index="1"<|sep|><|open|>json type="object"<|sep|>',
        "<|close|>json<|sep|><|close|>call<|sep|>",
        outer=("<|open|>tools<|sep|>", "<|close|>tools<|sep|>"),
    ),
    "glm47": Form(
        "<tool_call>{name}",
        "</tool_call>",
        key="<arg_key>{key}</arg_key><arg_value>",
        after="</arg_value>",
        quotes=("", ""),
    ),
    "qwen3_coder": Form(
        "<tool_call>\n<function={name}>\n",
        "</function>\n</tool_call>",
        between="\n",
        key="<parameter={key}>\n",
        after="\n</parameter>\n",
        quotes=("", ""),
    ),
    "minimax_m2": Form(
        '<invoke name="{name}">\n',
        "</invoke>\n",
        outer=("<minimax:tool_call>\n", "</minimax:tool_call>"),
        key='<parameter name="{key}">',
        after="</parameter>\n",
        quotes=("", ""),
    ),
    "minicpm5": Form(
        '<function name="{name}">',
        "</function>",
        key='<param name="{key}">',
        after="</param>",
        quotes=("", ""),
    ),
    "muse_spark": Form(
        '<atem:invoke name="{name}">\n',
        "</atem:invoke>\n",
        outer=("<atem:function_calls>\n", "</atem:function_calls>"),
        key='<atem:parameter name="{key}">',
        after="</atem:parameter>\n",
    ),
    "pythonic": Form(
        "{name}(",
        ")",
        outer=("<|tool_call_start|>[", "]<|tool_call_end|>"),
        between=", ",
        key="{key}=",
        comma=", ",
    ),
    "function_gemma": Form(
        "<start_function_call>call:{name}{",
        "}<end_function_call>",
        key="{key}:",
        comma=",",
        quotes=("<escape>", "<escape>"),
    ),
    "gemma4": Form(
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
    "mistral": Stream(
        re.compile(r"\s*(?P<name>[\w-]+)\s*\[ARGS\]\s*(?=\{)"), re.compile(r"\s*(?:\[TOOL_CALLS\])?\s*")
    ),
    "kimi_k2": Stream(
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


PLAIN = Family(
    "<tool_call>",
    "</tool_call>",
    plain_parse,
    form=Form('<tool_call>{"name": "{name}", "arguments": ', "}</tool_call>", between="\n"),
    stream=_JSON_STREAM,
)


def family_named(name: str, start: str, end: str, parse: Parse) -> Family:
    """``name`` is that of mlx-lm's parser, ``start`` and ``end`` its marks."""
    return Family(start, end, parse, _FORMS.get(name), _STREAMS.get(name), _INNER.get(name, ()))


def dialect_of(tokenizer: Any) -> Dialect:
    """``tokenizer`` is mlx-lm's wrapper."""
    family = None
    if tokenizer.has_tool_calling:
        parse = tokenizer.tool_parser
        name = parse.__module__.rpartition(".")[2]
        if name == "mistral" and "[ARGS]" not in tokenizer.get_vocab():
            name = "mistral_list"
        family = family_named(name, tokenizer.tool_call_start, tokenizer.tool_call_end, parse)
    thinking = (tokenizer.think_start, tokenizer.think_end) if tokenizer.has_thinking else None
    marks = [*(thinking or ()), *(family.marks if family else ())]
    special = {
        token.content: int(id)
        for id, token in tokenizer.added_tokens_decoder.items()
        if token.special and any(token.content in mark for mark in marks)
    }
    opening: tuple[int, ...] = tokenizer.think_start_tokens or ()
    return Dialect(family, thinking, opening[0] if len(opening) == 1 else None, special)
