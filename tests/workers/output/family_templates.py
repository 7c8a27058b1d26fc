"""Chat templates of our own that show calls and thinking with the marks of each family in ``families.json``."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from workers.chat_template.call_format import COUNT_HOLE, ID_HOLE, KEY_HOLE, NAME_HOLE, CallFormat

FAMILIES: dict[str, Any] = {
    each["family"]: each for each in json.loads((Path(__file__).parent / "families.json").read_text())
}
HARMONY = "gpt-oss"
_HOLES = {NAME_HOLE: "f.name", KEY_HOLE: "k", COUNT_HOLE: "loop.index0 | string", ID_HOLE: "c.id"}
_LOOSE = """\
{% macro loose(v) %}{% if v is string %}QUOTE{{ v }}QUOTE{% elif v is mapping %}{{ '{' }}\
{% for k, x in v.items() %}{{ k }}:{{ loose(x) }}{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}\
{% elif v is iterable %}[{% for x in v %}{{ loose(x) }}{% if not loop.last %},{% endif %}{% endfor %}]\
{% else %}{{ v | tojson }}{% endif %}{% endmacro %}"""
_TAGS = """\
{% macro tags(v) %}{% if v is mapping %}{% for k, x in v.items() %}KEY{{ tags(x) }}AFTER{% endfor %}\
{% elif v is iterable and v is not string %}{% set k = 'item' %}{% for x in v %}KEY{{ tags(x) }}AFTER{% endfor %}\
{% else %}{{ v if v is string else v | tojson }}{% endif %}{% endmacro %}"""
_CHAT = """\
MACROS{%- if tools %}<|turn|>tools {{ tools | tojson }}<|over|>{% endif -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}<|turn|>assistant
THOUGHTS{% if not (BARE and m.tool_calls) %}ANSWER{{ m.content or '' }}{% endif %}\
{% if m.tool_calls %}CALLS{% endif %}<|over|>
{%- elif m.role == 'tool' -%}<|turn|>tool {{ m.content }}<|over|>
{%- else -%}<|turn|>{{ m.role }} {{ m.content }}<|over|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|turn|>assistant
{% endif -%}"""
_HARMONY = """\
{%- if tools %}<|start|>developer<|message|>{{ tools | tojson }}<|end|>{% endif -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' and m.tool_calls -%}
{%- if m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif -%}
<|start|>assistant to=functions.{{ m.tool_calls[0].function.name }}<|channel|>commentary json<|message|>
{{- m.tool_calls[0].function.arguments | tojson }}<|call|>
{%- elif m.role == 'assistant' -%}
{%- if m.thinking and loop.last %}<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif -%}
<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>
{%- elif m.role == 'tool' -%}<|start|>functions.{{ m.name }} to=assistant\
<|channel|>commentary<|message|>{{ m.content }}<|end|>
{%- else -%}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|start|>assistant{% endif -%}"""


@cache
def format_of(family: str) -> CallFormat:
    return TypeAdapter(CallFormat).validate_python(FAMILIES[family]["format"])


@cache
def template_of(family: str) -> str:
    if family == HARMONY:
        return _HARMONY
    format, thinking = format_of(family), FAMILIES[family]["thinking"]
    macros = {
        "loose": _LOOSE.replace("QUOTE", format.quotes[0]),
        "tags": _TAGS.replace("KEY", _jinja(format.key)).replace("AFTER", _jinja(format.after)),
    }
    opened, closed, answer = thinking or ("", "", "")
    thoughts = (
        "{% if m.reasoning_content %}" + opened + "\n{{ m.reasoning_content }}\n" + closed + "\n\n{% endif %}"
    )
    bare = not format.opening and not format.outer[0]
    return (
        _CHAT.replace("MACROS", macros.get(format.values, ""))
        .replace("THOUGHTS", thoughts if thinking else "")
        .replace("ANSWER", answer)
        .replace("BARE", str(bare or format.opening.startswith(NAME_HOLE)).lower())
        .replace("CALLS", _calls(format))
    )


def _calls(format: CallFormat) -> str:
    between = "{% if not loop.last %}" + _jinja(format.between) + "{% endif %}"
    if format.kind == "json_list":
        head, tail, between = "[", "]", "{% if not loop.last %}, {% endif %}"
        each = _object(format)
    else:
        head = tail = ""
        each = _jinja(format.opening) + _body(format) + _jinja(format.closing)
    if not format.several:
        each = "{% if m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}" + each
    loop = "{% for c in m.tool_calls %}{% set f = c.function %}" + each + between + "{% endfor %}"
    return _jinja(format.outer[0]) + head + loop + tail + _jinja(format.outer[1])


def _body(format: CallFormat) -> str:
    match format.kind:
        case "json":
            return _object(format)
        case "name_json":
            return "{{ f.arguments | tojson }}"
    comma = "{% if not loop.last %}" + _jinja(format.comma) + "{% endif %}" if format.comma else ""
    return (
        "{% for k, v in f.arguments.items() %}"
        + _key(format)
        + _value(format)
        + _jinja(format.after)
        + comma
        + "{% endfor %}"
    )


def _object(format: CallFormat) -> str:
    if format.name_is_key:
        return "{{ {f.name: f.arguments} | tojson }}"
    return "{{ {'" + f"{format.name[0]}': f.name, '{format.arguments[0]}': f.arguments" + "} | tojson }}"


def _key(format: CallFormat) -> str:
    if not format.key_by_type:
        return _jinja(format.key)
    tests = {
        "boolean": "v is boolean",
        "null": "v is none",
        "number": "v is number",
        "object": "v is mapping",
    }
    chosen = "".join(
        "{% elif " + test + " %}" + _jinja(format.key_by_type[kind]) for kind, test in tests.items()
    )
    array = "{% else %}" + _jinja(format.key_by_type["array"]) + "{% endif %}"
    return "{% if v is string %}" + _jinja(format.key) + chosen + array


def _value(format: CallFormat) -> str:
    if format.values == "loose":
        return "{{ loose(v) }}"
    if format.values == "tags":
        return "{{ tags(v) }}"
    if format.quotes[0]:
        quoted = "{% if v is string %}'{{ v }}'{% else %}{{ v | tojson }}{% endif %}"
        return "{{ v | tojson }}" if format.quotes[0] == '"' else quoted
    plain = "{{ v }}" if format.values == "python" else "{{ v if v is string else v | tojson }}"
    if format.wrapper[0]:
        opened, closed = format.wrapper
        wrapped = "{% if v is string and ('<' in v or '&' in v) %}" + opened + "{{ v }}" + closed
        return wrapped + "{% else %}" + plain + "{% endif %}"
    return plain


def _jinja(mark: str) -> str:
    """As an expression, so that no trimming touches its blanks."""
    if not mark:
        return ""
    text = json.dumps(mark, ensure_ascii=False)
    for hole, name in _HOLES.items():
        text = text.replace(hole, f'" ~ ({name}) ~ "')
    return "{{ " + text + " }}"
