"""How calls look in a model's text: the marks around them and the form of what is between.

In a mark, holes stand for what differs from call to call. They are characters of Unicode's private use area, so that
no text of a template is taken for one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

NAME_HOLE, KEY_HOLE, ID_HOLE, COUNT_HOLE = "\ue100", "\ue101", "\ue102", "\ue103"
VALUE_HOLE, BODY_HOLE = "\ue104", "\ue105"
HOLES = (NAME_HOLE, KEY_HOLE, ID_HOLE, COUNT_HOLE, VALUE_HOLE, BODY_HOLE)

Kind = Literal["json", "json_list", "name_json", "tagged"]
Values = Literal["raw", "json", "python", "loose", "tags"]
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class CallFormat:
    """``outer`` is around all calls of a turn, ``opening`` and ``closing`` around each, ``between`` two of them.

    json, json_list, name_json: the body is JSON. ``name``, ``arguments`` and ``id`` are paths in a call's object, the
    empty path being the object; ``name_is_key``: the object is ``{name: arguments}``; ``arguments_as_text``: JSON in a
    JSON string. tagged: ``key`` leads to a value, ``key_by_type`` where the value's type is written too; ``after`` is
    behind a value, ``comma`` between two arguments, ``quotes`` around a string, in which quotes and backslashes are
    ``escaped`` or not, ``wrapper`` around an awkward string.
    ``values``: how what is no string is written. ``several``: whether one turn may hold more than one call.
    ``also``: other openings that models write, with the outer mark before them if there is one.
    """

    kind: Kind
    opening: str = ""
    closing: str = ""
    outer: tuple[str, str] = ("", "")
    between: str = ""
    name: Path = ("name",)
    arguments: Path = ("arguments",)
    id: Path | None = None
    name_is_key: bool = False
    arguments_as_text: bool = False
    key: str = ""
    key_by_type: Mapping[str, str] = field(default_factory=dict)
    after: str = ""
    comma: str = ""
    quotes: tuple[str, str] = ("", "")
    escaped: bool = False
    wrapper: tuple[str, str] = ("", "")
    values: Values = "json"
    several: bool = True
    also: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        """Every mark that a call may have."""
        own = (*self.outer, self.opening, self.closing, self.between, self.key, self.after, *self.quotes)
        return tuple(mark for mark in (*own, *self.wrapper, *self.key_by_type.values(), *self.also) if mark)


@dataclass(frozen=True)
class Unknown:
    """No form was found. ``reason`` is told to operators."""

    reason: str
