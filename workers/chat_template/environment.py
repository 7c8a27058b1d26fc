"""A chat template as a function of messages, tools and switches, in the environment that transformers gives it.

Rule 1: whatever a template does is an answer: a text, or ``Raised``. Only running out of time ends the process.
Rule 2: a template gets copies. It may change them (some append to lists), which transformers' own sandbox forbids.
Rule 3: the same conversation gives the same text: the clock stands still unless the caller lets it run.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import SandboxedEnvironment

Json = Any  # what JSON can hold
Message = dict[str, Json]

MOST_CHARACTERS = 16 << 20  # of one rendering or repeated text
MOST_BITS = 1 << 20  # of a number
NOON = datetime(2026, 1, 2, 12, 0, 0)  # noqa: DTZ001 (templates write local time)


@dataclass(frozen=True)
class Raised:
    """A template refused, or failed. ``words``: what its own ``raise_exception`` said."""

    kind: str
    words: str = ""


class _Generation(Extension):
    """``{% generation %}`` marks what an assistant wrote, for training; here it is only its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Sandbox(SandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Raises MemoryError before one expression takes all memory, or all time."""
        if operator == "**" and isinstance(right, int) and _size(left) * right > MOST_BITS:
            raise MemoryError("too large a power")
        for text, times in ((left, right), (right, left)):
            if hasattr(text, "__len__") and isinstance(times, int) and len(text) * times > MOST_CHARACTERS:
                raise MemoryError("too long a repetition")
        return super().call_binop(context, operator, left, right)


def _size(number: Any) -> int:
    return number.bit_length() if isinstance(number, int) else 0


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, **options: Any) -> str:
    """Replaces transformers' ``tojson`` filter; a generator becomes a list, an undefined name is refused as there."""
    allowed = {name: options[name] for name in ("indent", "separators", "sort_keys") if name in options}
    return json.dumps(value, ensure_ascii=options.get("ensure_ascii", False), default=list, **allowed)


def _environment(now: Callable[[], datetime]) -> jinja2.Environment:
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    environment.filters["tojson"] = _to_json
    environment.filters["from_json"] = json.loads
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    environment.globals["dict"] = dict
    return environment


@dataclass(frozen=True)
class Rendering:
    """``variables``: what every rendering sees, such as ``bos_token``; ``most``: characters of a rendering.

    Raises TemplateError if the template cannot be parsed.
    """

    template: str
    variables: Mapping[str, Json] = field(default_factory=lambda: {"bos_token": "", "eos_token": "</eos>"})
    now: Callable[[], datetime] = lambda: NOON
    most: int = MOST_CHARACTERS

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return _environment(self.now).from_string(self.template.removeprefix("\ufeff"))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Json] | None = None,
        *,
        prompt: bool = False,
        **switches: Json,
    ) -> str | Raised:
        """``prompt``: with what opens the answer (``add_generation_prompt``)."""
        known = {**self.variables, "add_generation_prompt": prompt, "documents": None, **switches}
        if "functions" in self.undeclared and "tools" not in self.undeclared:
            known |= {
                "functions": json.dumps(tools or [], indent=4),
                "datetime": self.now().strftime("%Y-%m-%d"),
            }
        try:
            pieces, size = [], 0
            stream = self._compiled.generate(messages=copied(messages), tools=copied(tools), **copied(known))
            for piece in stream:
                pieces.append(piece)
                size += len(piece)
                if size > self.most:
                    return Raised("MemoryError", "more text than any model reads")
            return "".join(pieces)
        except TemplateError as error:
            return Raised(type(error).__name__, str(error.message or ""))
        except Exception as error:  # noqa: BLE001 (a template is a program and raises what Python can)
            return Raised(type(error).__name__)

    @cached_property
    def tree(self) -> nodes.Template:
        return _environment(self.now).parse(self.template.removeprefix("\ufeff"))

    @cached_property
    def undeclared(self) -> frozenset[str]:
        """Names that the template reads and does not set: messages, tools, and the switches it listens to."""
        return frozenset(find_undeclared_variables(self.tree))


def copied(value: Json) -> Json:
    """A deep copy of a JSON value."""
    if isinstance(value, dict):
        return {key: copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [copied(each) for each in value]
    return value
