"""What templates do not show of how their models write calls: a table, chosen by the marks that are found.

Rule 1: a format that the template itself proves comes first; an entry here completes it, or stands in for it.
Rule 2: an entry is chosen by marks of the template or of the vocabulary, never by a model's name.
The forms are checked against the texts that the parsers of other servers are tried with.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from workers.chat_template.call_format import COUNT_HOLE as C
from workers.chat_template.call_format import ID_HOLE as ID
from workers.chat_template.call_format import KEY_HOLE as K
from workers.chat_template.call_format import NAME_HOLE as N
from workers.chat_template.call_format import CallFormat

_PYTHONIC = CallFormat(
    "tagged",
    opening=f"{N}(",
    closing=")",
    between=", ",
    key="\ue101=",
    comma=", ",
    quotes=('"', '"'),
    escaped=True,
)
_DEEPSEEK = "<｜tool▁sep｜>"
_STEP, _STEP_CALL = "<｜tool_calls_begin｜>", "<｜tool_call_begin｜>"
_STEP_INVOKE = f'<steptml:invoke name="{N}">'


@dataclass(frozen=True)
class Family:
    """``marks``: all must be in the template or the vocabulary. ``reason``: what the template does not show."""

    names: str
    marks: tuple[str, ...]
    format: CallFormat
    reason: str


FAMILIES = (
    Family(
        "LFM2, LFM2.5",
        ("<|tool_call_start|>", "<|tool_call_end|>"),
        replace(_PYTHONIC, outer=("<|tool_call_start|>[", "]<|tool_call_end|>")),
        "past calls are dropped",
    ),
    Family(
        "LFM2 (template only)",
        ("<|tool_list_start|>",),
        replace(_PYTHONIC, outer=("<|tool_call_start|>[", "]<|tool_call_end|>")),
        "past calls are dropped",
    ),
    Family(
        "Phi-4-mini",
        ("<|tool_call|>", "<|/tool_call|>"),
        CallFormat("json_list", outer=("<|tool_call|>", "<|/tool_call|>"), also=("functools",)),
        "past calls are dropped; vLLM's template for it has ``functools``",
    ),
    Family(
        "Granite 3",
        ("<|tool_call|>",),
        CallFormat("json_list", outer=("<|tool_call|>", ""), also=("<tool_call>",)),
        "past calls are refused or dropped",
    ),
    Family(
        "FunctionGemma",
        ("<start_function_call>", "<end_function_call>"),
        CallFormat(
            "tagged",
            opening=f"<start_function_call>call:{N}{{",
            closing="}<end_function_call>",
            key="\ue101:",
            comma=",",
            quotes=("<escape>", "<escape>"),
            values="loose",
        ),
        "in case past calls are dropped",
    ),
    Family(
        "InternLM2, InternLM3",
        ("<|action_start|>", "<|plugin|>"),
        CallFormat(
            "json",
            opening="<|action_start|><|plugin|>",
            closing="<|action_end|>",
            arguments=("parameters",),
        ),
        "past calls are dropped",
    ),
    Family(
        "LongCat",
        ("<longcat_tool_call>",),
        CallFormat("json", opening="<longcat_tool_call>", closing="</longcat_tool_call>"),
        "in case past calls are dropped",
    ),
    Family(
        "OLMo 3",
        ("<function_calls>", "</function_calls>"),
        replace(_PYTHONIC, outer=("<function_calls>", "</function_calls>"), between="\n"),
        "past calls are text",
    ),
    Family(
        "Step 3",
        ("<｜tool_calls_begin｜>", "<｜tool_call_begin｜>"),
        CallFormat(
            "tagged",
            outer=("<｜tool_calls_begin｜>", "<｜tool_calls_end｜>"),
            opening=f'<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="{N}">',
            closing="</steptml:invoke><｜tool_call_end｜>",
            key='<steptml:parameter name="\ue101">',
            after="</steptml:parameter>",
            also=(
                f"{_STEP}<｜tool_sep｜>{_STEP_CALL}{_STEP_INVOKE}",
                f"{_STEP}<｜tool_sep｜>{_STEP_CALL}function<｜tool_sep｜>{_STEP_INVOKE}",
            ),
        ),
        "in case past calls are dropped",
    ),
    Family(
        "Hunyuan, Jamba",
        ("<tool_calls>", "</tool_calls>"),
        CallFormat("json_list", outer=("<tool_calls>", "</tool_calls>")),
        "past calls are dropped",
    ),
    Family(
        "Granite 20B",
        ("<function_call>",),
        CallFormat("json", opening="<function_call>"),
        "past calls are dropped",
    ),
    Family(
        "GLM",
        ("<tool_call>", "<arg_key>", "<arg_value>"),
        CallFormat(
            "tagged",
            opening=f"<tool_call>{N}\n",
            closing="</tool_call>",
            key=f"<arg_key>{K}</arg_key>\n<arg_value>",
            after="</arg_value>\n",
        ),
        "in case past calls are dropped or refused",
    ),
    Family(
        "Qwen 3 Coder",
        ("<tool_call>", "<function=", "<parameter="),
        CallFormat(
            "tagged",
            opening=f"<tool_call>\n<function={N}>",
            closing="\n</function>\n</tool_call>",
            between="\n",
            key=f"\n<parameter={K}>\n",
            after="\n</parameter>",
        ),
        "in case past calls are dropped or refused",
    ),
    Family(
        "Hermes, Qwen, ERNIE, SmolLM3 and their kind",
        ("<tool_call>", "</tool_call>"),
        CallFormat("json", opening="<tool_call>", closing="</tool_call>"),
        "past calls are dropped",
    ),
    Family(
        "Mistral before v11",
        ("[TOOL_CALLS]",),
        CallFormat("json_list", outer=("[TOOL_CALLS]", ""), also=("[TOOL_CALLS]" + N + "[ARGS]",)),
        "past calls are refused",
    ),
)


def family_format(template: str, added_tokens: Collection[str]) -> CallFormat | None:
    """The call format of a family, for a template that shows tools and no calls."""
    known = set(added_tokens)
    return next(
        (each.format for each in FAMILIES if all(mark in known or mark in template for mark in each.marks)),
        None,
    )


def completed(format: CallFormat, template: str, added_tokens: Collection[str]) -> CallFormat:
    """Adds to a format the spellings that models write and their template does not show."""
    if format.kind == "json" and not format.marks and "<|python_tag|>" in {*added_tokens, *_in(template)}:
        return replace(format, also=("<|python_tag|>",), between=";")  # Llama 3, which joins calls so
    return replace(format, also=tuple(dict.fromkeys((*format.also, *_also(format)))))


def _also(format: CallFormat) -> tuple[str, ...]:
    """Other openings of the same family."""
    outer, opening = format.outer[0], format.opening
    if format.kind == "name_json" and opening.startswith(N) and len(format.between.strip()) > 1:
        return (format.between + opening,)  # functionary: behind text as between calls
    if format.kind == "name_json" and (id := f"functions.{N}:{C}") in opening:  # Kimi K2 varies its ids
        ids = (f"{N}:{C}", f"functions.{N}", f"functions_{N}_{C}", f"functions_{N}:{C}", N)
        return tuple(outer + opening.replace(id, each) for each in ids)
    if format.kind == "name_json" and _DEEPSEEK in opening:  # V3 and V3.1, each as the other
        begin = outer + "<｜tool▁call▁begin｜>"
        return (f"{begin}function{_DEEPSEEK}{N}", f"{begin}{N}{_DEEPSEEK}")
    if format.kind == "tagged" and "<｜DSML｜tool_calls>" in outer:  # DeepSeek V4
        return tuple(f"<｜DSML｜{word}>" + opening for word in ("toolcalls", "tool"))
    # Mistral, in the forms of other versions.
    if format.kind == "json_list" and outer.strip() == "[TOOL_CALLS]":
        return (f"[TOOL_CALLS]{N}[ARGS]",)
    if format.kind == "name_json" and opening == f"[TOOL_CALLS]{N}[ARGS]":
        return (f"[TOOL_CALLS]{N}[CALL_ID]{ID}[ARGS]",)
    if format.kind == "tagged" and opening == f"{N}(" and outer.endswith(">["):
        return (outer[:-1] + opening,)  # LFM2: the list's bracket is missing
    return ()


def _in(template: str) -> tuple[str, ...]:
    return ("<|python_tag|>",) if "<|python_tag|>" in template or "Environment: ipython" in template else ()
