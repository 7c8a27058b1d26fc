"""A grammar for calls that must come: the family's form, one of the names, arguments of its schema.

Written in llguidance's dialect of Lark. Marks that are special tokens are named by their ids, because no text can
spell them. Strings that a family writes without quotes end where the mark behind them begins.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.output.tool_formats import Form

Schema = dict[str, Any]

REFERENCES = 8  # that lead to one another
NOTHING: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
ANYTHING: Schema = {"type": "object"}


@dataclass(frozen=True)
class Tool:
    """A tool that may be called."""

    name: str
    parameters: Schema


@dataclass
class Demand:
    """``special`` are the special tokens by their text; the options go to the tools' schemas and to other text's."""

    form: Form
    special: Mapping[str, int]
    options: Mapping[str, Any]
    text_options: Mapping[str, Any] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)

    def grammar(self, tools: Sequence[Tool], *, parallel: bool, instead: Schema | None = None) -> str:
        """``instead``: of a call, JSON of this schema may come."""
        form = self.form
        calls = [self._call(tool, f"c{i}") for i, tool in enumerate(tools)]
        more = f" ({self._literal(form.between)} call)*" if parallel else ""
        start = f"{self._literal(form.outer[0])} call{more} {self._literal(form.outer[1])}"
        text = "" if instead is None else f" | {_json(instead, self.text_options)}"
        return "\n".join([f"start: {start}{text}", f"call: {' | '.join(calls)}", *self.rules])

    def _call(self, tool: Tool, rule: str) -> str:
        opening = self._literal(self.form.opening.replace("{name}", tool.name))
        whole = self.form.key is None
        arguments = self._json(tool.parameters) if whole else self._keyed(tool.parameters, rule)
        return self._rule(rule, f"{opening} {arguments} {self._literal(self.form.closing)}")

    def _keyed(self, parameters: Schema, rule: str) -> str:
        """The arguments in their order: each of two rules a key says whether one has been written before."""
        required = set(parameters.get("required") or ())
        first = more = '""'
        properties = list((parameters.get("properties") or {}).items())
        for i, (key, schema) in reversed(list(enumerate(properties))):
            argument = self._rule(f"{rule}_a{i}", self._argument(key, schema, parameters, f"{rule}_v{i}"))
            comma = self._literal(self.form.comma)
            given, with_comma = f"{argument} {more}", f"{comma} {argument} {more}"
            must = key in required
            first = self._rule(f"{rule}_f{i}", given if must else f"{given} | {first}")
            more = self._rule(f"{rule}_m{i}", with_comma if must else f"{with_comma} | {more}")
        return first

    def _argument(self, key: str, schema: Any, root: Schema, rule: str) -> str:
        opening = self._literal((self.form.key or "").replace("{key}", key))
        return f"{opening} {self._value(schema, root, rule)}"

    def _value(self, schema: Any, root: Schema, rule: str) -> str:
        schema = resolved(schema, root)
        after = self._literal(self.form.after)
        if self.form.quotes is None or not _is_text(schema):
            definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}
            return f"{self._json(schema | definitions)} {after}"
        before, behind = self.form.quotes
        if words := [word for word in _choices(schema) if isinstance(word, str)]:
            text = f"({' | '.join(map(self._literal, words))}) {self._literal(behind + self.form.after)}"
        else:
            text = self._text_to(behind + self.form.after, rule)
        return f"{self._literal(before)} {text}"

    def _text_to(self, mark: str, rule: str) -> str:
        """Any text, and the mark that ends it, which may be one special token or begin with one."""
        atoms = self._atoms(mark)
        if atoms[0] in self.special:
            return f"{self._rule(rule, '/(?s:.+)/ | ' + _EMPTY)} {self._literal(mark)}"
        self.rules.append(f"{rule}[lazy]: /(?s:.*){_escaped(atoms[0])}/")
        return f"{rule} {self._literal(mark[len(atoms[0]) :])}"

    def _rule(self, name: str, body: str) -> str:
        self.rules.append(f"{name}: {body}")
        return name

    def _json(self, schema: Schema) -> str:
        return _json(schema, self.options)

    def _literal(self, text: str) -> str:
        atoms = self._atoms(text)
        return (
            " ".join(f"<[{self.special[a]}]>" if a in self.special else json.dumps(a) for a in atoms)
            or _EMPTY
        )

    def _atoms(self, text: str) -> list[str]:
        """The text cut at special tokens."""
        if not self.special:
            return [text] if text else []
        longest_first = sorted(self.special, key=len, reverse=True)
        return [part for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if part]


_EMPTY = '""'


def _json(schema: Schema, options: Mapping[str, Any]) -> str:
    return f"%json {json.dumps(schema | {'x-guidance': dict(options)})}"


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")


def resolved(schema: Any, root: Schema) -> Schema:
    """What a reference into the tool's own schema stands for; one that cannot be followed stands for anything."""
    for _ in range(REFERENCES):
        if not isinstance(schema, dict) or "$ref" not in schema:
            break
        found: Any = root
        for step in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found.get(step) if isinstance(found, dict) else None
        schema = found
    return schema if isinstance(schema, dict) else {}


def _choices(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum") or ())


def _is_text(schema: Schema) -> bool:
    """Whether a value may be a string: then it is written as one."""
    if choices := _choices(schema):
        return all(isinstance(word, str) for word in choices)
    if kinds := schema.get("type"):
        return "string" in ([kinds] if isinstance(kinds, str) else kinds)
    either = schema.get("anyOf") or schema.get("oneOf")
    return not either or any(_is_text(each) for each in either if isinstance(each, dict))


def tool_of(tool: Mapping[str, Any]) -> Tool:
    """Of a tool in OpenAI's shape; one without a schema takes no arguments."""
    function = tool.get("function") or {}
    parameters = function.get("parameters") or NOTHING
    closed = {} if {"anyOf", "oneOf", "allOf", "$ref"} & set(parameters) else {"additionalProperties": False}
    return Tool(str(function.get("name")), {"type": "object"} | closed | parameters)
