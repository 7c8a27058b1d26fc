"""The grammar of tool calls: the tool format's syntax, one of the tools' names, and arguments that follow its schema.

Written in llguidance's dialect of Lark. Delimiters that are special tokens are referred to by id, because no text
spells them. A string that a format writes without quotes ends at the delimiter behind it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.grammars.json_in_string import JsonInString
from workers.grammars.references import resolved as resolved
from workers.output.tool_formats import CallSyntax

Schema = dict[str, Any]

# Objects and arrays that are written like arguments have no members below that level, or behind so many rules: the
# grammar of a schema that names itself several times would grow exponentially.
LEVELS, MOST_RULES = 6, 2000
NOTHING: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
ANYTHING: Schema = {"type": "object"}


@dataclass(frozen=True)
class CallableTool:
    """A tool that may be called."""

    name: str
    parameters: Schema


@dataclass
class ToolGrammar:
    """Writes one grammar. ``special``: ids of special tokens by text; ``options``, ``text_options``: llguidance's, for
    the tools' schemas and for the schema of other text.
    """

    syntax: CallSyntax
    special: Mapping[str, int]
    options: Mapping[str, Any]
    text_options: Mapping[str, Any] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)

    def grammar(self, tools: Sequence[CallableTool], *, parallel: bool, instead: Schema | None = None) -> str:
        """``instead``: the schema of JSON that is allowed in place of a call."""
        syntax = self.syntax
        calls = [self._call(tool, f"c{i}") for i, tool in enumerate(tools)]
        more = f" ({self._literal(syntax.between)} call)*" if parallel else ""
        start = f"{self._literal(syntax.outer[0])} call{more} {self._literal(syntax.outer[1])}"
        if syntax.thinking is not None:
            start = f"{self._thinking(*syntax.thinking)} {start}"
        text = "" if instead is None else f" | {_json(instead, self.text_options)}"
        return "\n".join([f"start: {start}{text}", f"call: {' | '.join(calls)}", *self.rules])

    def answer(self, schema: Schema, thinking: tuple[str, str], header: str) -> str:
        start = f"start: {self._thinking(*thinking)} {self._literal(header)} {self._json(schema)}"
        return "\n".join([start, *self.rules])

    def _thinking(self, opening: str, closing: str) -> str:
        thought = f"{self._literal(opening)} {self._text_to(closing, 'thought')}"
        return f"({self._rule('thinking', thought)})?"

    def _call(self, tool: CallableTool, rule: str) -> str:
        opening = self._literal(self.syntax.opening.replace("{name}", tool.name))
        if self.syntax.as_text:
            arguments = JsonInString(tool.parameters, rule, self.rules).arguments()
        elif self.syntax.key is None:
            arguments = self._json(tool.parameters)
        else:
            arguments = self._keyed(tool.parameters, tool.parameters, rule)
        return self._rule(rule, f"{opening} {arguments} {self._literal(self.syntax.closing)}")

    def _keyed(self, schema: Schema, root: Schema, rule: str, level: int = 0) -> str:
        """Arguments in the schema's order. Each key has two rules: one as the first argument, one as a later one."""
        required = set(schema.get("required") or ())
        first = more = _EMPTY
        properties = list((schema.get("properties") or {}).items()) if self._has_room(level) else []
        for i, (key, value) in reversed(list(enumerate(properties))):
            argument = self._rule(f"{rule}_a{i}", self._argument(key, value, root, f"{rule}_v{i}", level))
            comma = self._literal(self.syntax.comma)
            given, with_comma = f"{argument} {more}", f"{comma} {argument} {more}"
            must = key in required
            first = self._rule(f"{rule}_f{i}", given if must else f"{given} | {first}")
            more = self._rule(f"{rule}_m{i}", with_comma if must else f"{with_comma} | {more}")
        return first

    def _has_room(self, level: int) -> bool:
        return level == 0 or (level < LEVELS and len(self.rules) < MOST_RULES)

    def _argument(self, key: str, schema: Any, root: Schema, rule: str, level: int = 0) -> str:
        typed = self._typed(resolved(schema, root))
        marks = {(mark or "").replace("{key}", key): each for mark, each in typed}
        after = self.syntax.after.replace("{key}", key)
        return " | ".join(
            f"{self._literal(mark)} {self._value(each, root, after, f'{rule}_{i}' if i else rule, level)}"
            for i, (mark, each) in enumerate(marks.items())
        )

    def _typed(self, schema: Schema) -> list[tuple[str | None, Schema]]:
        """The marks that may lead to the value, each with the schema of the values that it leads to."""
        by_type = self.syntax.key_by_type
        if not by_type or _is_text(schema):
            return [(self.syntax.key, schema)]
        kinds: dict[str, list[str]] = {}
        for kind in _kinds(schema):
            kinds.setdefault(
                by_type.get("number" if kind == "integer" else kind, self.syntax.key or ""), []
            ).append(kind)
        if len(kinds) == 1:
            return [(next(iter(kinds)), schema)]
        return [(mark, {**schema, "type": types}) for mark, types in kinds.items()]

    def _value(self, schema: Any, root: Schema, after: str, rule: str, level: int) -> str:
        """``after``: the mark behind it. Of a schema that allows a container and more, the container is taken."""
        schema = resolved(schema, root)
        kinds = _kinds(schema) if self.syntax.nested and not _is_text(schema) else []
        if "object" in kinds:
            return f"{self._keyed(schema, root, rule, level + 1)} {self._literal(after)}"
        if "array" in kinds:
            if not self._has_room(level):
                return self._literal(after)
            items = schema.get("items")
            item = self._rule(f"{rule}_i", self._argument("item", items, root, f"{rule}_e", level + 1))
            return f"{item}* {self._literal(after)}"
        if self.syntax.quotes is None or not _is_text(schema):
            definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}
            return f"{self._json(schema | definitions)} {self._literal(after)}"
        before, behind = self.syntax.quotes
        if words := [word for word in _choices(schema) if isinstance(word, str)]:
            text = f"({' | '.join(map(self._literal, words))}) {self._literal(behind + after)}"
        else:
            text = self._text_to(behind + after, rule)
        return f"{self._literal(before)} {text}"

    def _text_to(self, delimiter: str, rule: str) -> str:
        """Any text up to ``delimiter``, which may be, or begin with, a special token."""
        atoms = self._atoms(delimiter)
        if atoms[0] in self.special:
            return f"{self._rule(rule, '/(?s:.+)/ | ' + _EMPTY)} {self._literal(delimiter)}"
        self.rules.append(f"{rule}[lazy]: /(?s:.*){_escaped(atoms[0])}/")
        return f"{rule} {self._literal(delimiter[len(atoms[0]) :])}"

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
        """``text`` split at special tokens, which are kept."""
        if not self.special:
            return [text] if text else []
        longest_first = sorted(self.special, key=len, reverse=True)
        return [part for part in re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if part]


_EMPTY = '""'


def _json(schema: Schema, options: Mapping[str, Any]) -> str:
    return f"%json {json.dumps(schema | {'x-guidance': dict(options)})}"


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n")


def _choices(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else list(schema.get("enum") or ())


def _is_text(schema: Schema) -> bool:
    """Whether the schema allows a string; such a value is written as a string."""
    if choices := _choices(schema):
        return all(isinstance(word, str) for word in choices)
    if kinds := schema.get("type"):
        return "string" in ([kinds] if isinstance(kinds, str) else kinds)
    either = schema.get("anyOf") or schema.get("oneOf")
    return not either or any(_is_text(each) for each in either if isinstance(each, dict))


def _kinds(schema: Schema) -> list[str]:
    """The types of the values that a schema which is no text allows."""
    if choices := _choices(schema):
        return list(dict.fromkeys(_kind(choice) for choice in choices))
    if kinds := schema.get("type"):
        return [kinds] if isinstance(kinds, str) else list(kinds)
    either = [each for each in schema.get("anyOf") or schema.get("oneOf") or () if isinstance(each, dict)]
    return list(dict.fromkeys(kind for each in either for kind in _kinds(each)))


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def tool_of(tool: Mapping[str, Any]) -> CallableTool:
    """Reads a tool in OpenAI's shape; without a schema it takes no arguments."""
    function = tool.get("function") or {}
    parameters = function.get("parameters") or NOTHING
    closed = {} if {"anyOf", "oneOf", "allOf", "$ref"} & set(parameters) else {"additionalProperties": False}
    return CallableTool(str(function.get("name")), {"type": "object"} | closed | parameters)
