"""A template renders as in transformers; what it raises is an answer, and it never changes what it is given."""

import pytest

from workers.chat_template.environment import Raised, Rendering

CHAT = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n", "hi\n"),
        ("{% for m in messages %}{% break %}{% endfor %}x", "x"),
        ("{% generation %}a{{ messages[0].content }}{% endgeneration %}", "ahi"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ {'a': 1} | tojson(separators=(',', ':')) }}", '{"a":1}'),
        ("{{ messages | map(attribute='role') | tojson }}", '["user"]'),
        ("{{ ('{\"a\": 1}' | from_json).a }}", "1"),
        ("{{ strftime_now('%Y') }}", "2026"),
        ("\ufeffx", "x"),
        ("{% set l = [] %}{{ l.append(1) or '' }}{{ l }}", "[1]"),
        ("{{ messages.append({'content': 'new'}) or '' }}{{ messages[1].content }}", "new"),
        ("{% if add_generation_prompt %}open{% endif %}", ""),
        ("{{ functions }}", "[]"),
    ],
)
def test_a_template_renders_as_in_transformers(template: str, text: str) -> None:
    assert Rendering(template).render(CHAT) == text


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        ("{{ raise_exception('no') }}", "TemplateError"),
        ("{{ messages[7].content.x }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{% set n = 10 ** 9 %}{{ 'a' * n }}", "MemoryError"),
        ("{% set n = 10 ** 9 %}{{ 9 ** n }}", "MemoryError"),
        ("{% for i in range(90000) %}{{ 'a' * 1000 }}{% endfor %}", "MemoryError"),
    ],
)
def test_what_a_template_raises_is_an_answer(template: str, kind: str) -> None:
    raised = Rendering(template).render(CHAT)
    assert isinstance(raised, Raised) and raised.kind == kind


def test_a_template_never_changes_what_it_is_given() -> None:
    messages = [{"role": "user", "content": ["a"]}]
    template = "{{ messages[0].content.append('b') or '' }}{{ messages[0].update({'role': 'x'}) or '' }}"
    assert Rendering(template).render(messages) == ""
    assert messages == [{"role": "user", "content": ["a"]}]
