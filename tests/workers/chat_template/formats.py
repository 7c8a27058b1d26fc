"""Templates of our own that write calls in the ways that families of models do, and the formats found in them."""

from functools import cache

from workers.chat_template.call_format import Unknown
from workers.chat_template.environment import Rendering
from workers.chat_template.format_search import FoundFormat, find_format

_HEAD = """\
{%- if tools %}<|tools|>{{ tools | tojson }}<|end|>
{% endif -%}
{%- for m in messages %}
{%- if m.role == 'assistant' -%}
<|assistant|>
{% if not (m.tool_calls and BARE) %}{{ m.content or '' }}{% endif %}"""
_TAIL = """\
<|end|>
{% elif m.role == 'tool' -%}
<|tool|>
{{ m.content }}<|end|>
{% else -%}
<|{{ m.role }}|>
{{ m.content }}<|end|>
{% endif -%}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>
{% endif -%}
"""


def template(calls: str, *, bare: bool = False) -> str:
    """``calls``: how the calls of the message ``m`` are written; ``bare``: without the text beside them."""
    return (
        _HEAD.replace("BARE", str(bare).lower()) + "{%- if m.tool_calls %}" + calls + "{%- endif %}" + _TAIL
    )


def each(call: str, between: str = "") -> str:
    """``call``: how the function ``f`` is written."""
    joined = "{% if not loop.last %}{{ '" + between + "' }}{% endif %}" if between else ""
    return "{%- for c in m.tool_calls %}{%- set f = c.function %}" + call + joined + "{%- endfor %}"


_ARGUMENTS = "{% for k, v in f.arguments.items() %}"
_VALUE = "{{ v if v is string else v | tojson }}"
_OBJECT = "{{ {'name': f.name, 'arguments': f.arguments} | tojson }}"

CALLS = {
    "json": each("{{ '\n<tool_call>\n' }}" + _OBJECT + "{{ '\n</tool_call>' }}"),
    "json, no marks": each(
        "{% if m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}"
        "{{ {'name': f.name, 'parameters': f.arguments} | tojson }}"
    ),
    "json, arguments as text": each(
        "<call>{{ {'name': f.name, 'arguments': f.arguments | tojson} | tojson }}</call>"
    ),
    "json, name as key": "{{ '<|prefix|>[' }}"
    + each("{{ {f.name: f.arguments} | tojson }}", ", ")
    + "{{ ']<|suffix|>' }}",
    "list": "[TOOL_CALLS]["
    + each("{{ {'name': f.name, 'arguments': f.arguments, 'id': c.id} | tojson }}", ", ")
    + "]",
    "name + json": each("[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}"),
    "name + json, ids": each("[TOOL_CALLS]{{ f.name }}[CALL_ID]{{ c.id }}[ARGS]{{ f.arguments | tojson }}"),
    "name + json, counted": "<|calls_begin|>"
    + each(
        "<|call_begin|>functions.{{ f.name }}:{{ loop.index0 }}<|args|>{{ f.arguments | tojson }}<|call_end|>"
    )
    + "<|calls_end|>",
    "name by id": "<|calls_begin|>"
    + each("<|call_begin|>{{ c.id }}<|args|>{{ f.arguments | tojson }}<|call_end|>")
    + "<|calls_end|>",
    "tagged, lines": each(
        "{{ '<tool_call>\n<function=' ~ f.name ~ '>\n' }}"
        + _ARGUMENTS
        + "{{ '<parameter=' ~ k ~ '>\n' }}"
        + _VALUE
        + "{{ '\n</parameter>\n' }}{% endfor %}"
        + "{{ '</function>\n</tool_call>' }}",
        "\n",
    ),
    "tagged, key and value": each(
        "<tool_call>{{ f.name }}"
        + _ARGUMENTS
        + "<arg_key>{{ k }}</arg_key><arg_value>"
        + _VALUE
        + "</arg_value>{% endfor %}</tool_call>"
    ),
    "tagged, python": each(
        "{{ '<seed:call>\n<function=' ~ f.name ~ '>\n' }}"
        + _ARGUMENTS
        + "<parameter={{ k }}>{{ v }}{{ '</parameter>\n' }}{% endfor %}{{ '</function>\n</seed:call>' }}"
    ),
    "tagged, typed": "{{ '\n\n<dsml:calls>\n' }}"
    + each(
        "{{ '<dsml:invoke name=\"' ~ f.name ~ '\">\n' }}"
        + _ARGUMENTS
        + "<dsml:parameter name=\"{{ k }}\" string=\"{{ 'true' if v is string else 'false' }}\">"
        + _VALUE
        + "{{ '</dsml:parameter>\n' }}{% endfor %}{{ '</dsml:invoke>\n' }}"
    )
    + "</dsml:calls>",
    "tagged, wrapped": each(
        '<function name="{{ f.name }}">' + _ARGUMENTS + '<param name="{{ k }}">'
        "{% if v is string and ('<' in v or '&' in v) %}<![CDATA[{{ v }}]]>{% else %}"
        + _VALUE
        + "{% endif %}"
        "</param>{% endfor %}</function>"
    ),
    "pythonic": "{{ '<|call_start|>[' }}"
    + each(
        "{{ f.name }}("
        + _ARGUMENTS
        + "{{ k }}={{ v | tojson }}{% if not loop.last %}, {% endif %}{% endfor %})",
        ", ",
    )
    + "{{ ']<|call_end|>' }}",
    "loose": "{% macro value(v) %}{% if v is string %}<|\"|>{{ v }}<|\"|>{% elif v is mapping %}{{ '{' }}"
    "{% for k, x in v.items() %}{{ k }}:{{ value(x) }}{% if not loop.last %},{% endif %}{% endfor %}{{ '}' }}"
    "{% elif v is iterable %}[{% for x in v %}{{ value(x) }}{% if not loop.last %},{% endif %}{% endfor %}]"
    "{% else %}{{ v | tojson }}{% endif %}{% endmacro %}"
    + each(
        "<|tool_call>call:{{ f.name }}{{ '{' }}"
        + _ARGUMENTS
        + "{{ k }}:{{ value(v) }}{% if not loop.last %},{% endif %}{% endfor %}{{ '}<tool_call|>' }}"
    ),
    "tags in tags": "{% macro xml(v) %}{% if v is mapping %}"
    "{% for k, x in v.items() %}<ns:{{ k }}>{{ xml(x) }}</ns:{{ k }}>{% endfor %}"
    "{% elif v is iterable and v is not string %}"
    "{% for x in v %}<ns:item>{{ xml(x) }}</ns:item>{% endfor %}"
    "{% else %}"
    + _VALUE
    + "{% endif %}{% endmacro %}<ns:calls>"
    + each(
        '<ns:invoke name="{{ f.name }}">'
        + _ARGUMENTS
        + "<ns:{{ k }}>{{ xml(v) }}</ns:{{ k }}>{% endfor %}</ns:invoke>"
    )
    + "</ns:calls>",
}
UNTYPED = {name for name in CALLS if name.startswith("tag")} - {"tagged, typed"}


@cache
def rendering(kind: str) -> Rendering:
    return Rendering(template(CALLS[kind], bare=kind == "json, no marks"))


@cache
def found(kind: str) -> FoundFormat:
    result = find_format(rendering(kind))
    assert not isinstance(result, Unknown), result
    return result
