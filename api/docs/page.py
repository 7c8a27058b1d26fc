"""The OpenAPI document as one HTML page that loads nothing. Pure."""

from collections.abc import Iterator
from html import escape
from typing import Any

from api.docs.openapi import REFS

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; font-size: 1.1rem; } h2 b { text-transform: uppercase; color: #777; }
code, h2 { font-family: ui-monospace, monospace; } table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8883; }
nav a { display: block; } @media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; }
a { color: #8bf; } }
"""
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minItems": "items at least",
    "maxItems": "items at most",
    "minLength": "characters at least",
    "maxLength": "characters at most",
}


def page(document: dict[str, Any]) -> str:
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    links = "".join(
        f'<a href="#{one["operationId"]}">{method.upper()} {escape(path)}</a>'
        for method, path, one in operations
    )
    sections = "".join(_section(document, *operation) for operation in operations)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>mlx-server</title><style>{_STYLE}</style>'
        f"<h1>mlx-server</h1><p>{escape(document['info']['description'])} For programs: "
        f'<a href="/openapi.json">openapi.json</a>.</p><nav>{links}</nav>{sections}</html>'
    )


def _section(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    head = f'<h2 id="{operation["operationId"]}"><b>{method}</b> {escape(path)}</h2>'
    body = operation.get("requestBody")
    fields = _fields(document, body["content"]["application/json"]["schema"]) if body else ""
    answers = operation["responses"]["200"].get("content", {})
    streams = "<p>Streamed when <code>stream</code> is true.</p>" if "text/event-stream" in answers else ""
    return f"{head}<p>{escape(operation['summary'])}.</p>{streams}{fields}"


def _fields(document: dict[str, Any], schema: dict[str, Any]) -> str:
    schema = document["components"]["schemas"][schema["$ref"].removeprefix(REFS)]
    required = schema.get("required", [])
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else _default(field)
        rows.append(
            f"<tr><td><code>{escape(name)}</code></td><td>{escape(_kind(field))}</td>"
            f"<td>{escape(', '.join(_bounds(field)))}</td><td>{escape(default)}</td></tr>"
        )
    return (
        f"<table><tr><th>field</th><th>type</th><th>limits</th><th>default</th></tr>{''.join(rows)}</table>"
    )


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    return "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)


def _kind(field: dict[str, Any]) -> str:
    """A short form of the type; the document has the whole."""
    if "$ref" in field:
        return str(field["$ref"]).removeprefix(REFS).rpartition("__")[2]
    if "enum" in field or "const" in field:
        return " or ".join(repr(value) for value in field.get("enum", [field.get("const")]))
    branches = field.get("anyOf") or field.get("oneOf")
    if branches:
        kinds = dict.fromkeys(_kind(branch) for branch in branches if branch.get("type") != "null")
        return " or ".join(kinds)
    kind = str(field.get("type", "anything"))
    return f"list of {_kind(field['items'])}" if kind == "array" and "items" in field else kind


def _bounds(field: dict[str, Any]) -> Iterator[str]:
    for branch in (field, *field.get("anyOf", ())):
        for key, words in _BOUNDS.items():
            if key in branch:
                yield f"{words} {branch[key]}"
