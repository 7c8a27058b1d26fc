"""The errors by which every dialect refuses a field.

A parameter of another server is refused unless its value is neutral.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import InvalidRequest, UnsupportedParameter

Body = Mapping[str, Any]

NOTHING: tuple[Any, ...] = (None, False, 0, "", [], {})


@dataclass(frozen=True)
class RefusedParameter:
    """``neutral``: the values that ask for nothing, or a function that decides it from the value and the request."""

    why: str
    neutral: tuple[Any, ...] | Callable[[Any, Body], bool] = NOTHING

    def allows(self, value: Any, body: Body) -> bool:
        if callable(self.neutral):
            return self.neutral(value, body)
        return any(value == one and isinstance(value, bool) is isinstance(one, bool) for one in self.neutral)


def each(names: str, why: str, *neutral: Any) -> dict[str, RefusedParameter]:
    """``names``: with spaces between them. ``neutral``: besides null; without any, whatever is empty."""
    return dict.fromkeys(names.split(), RefusedParameter(why, (*neutral, None) if neutral else NOTHING))


def unsupported(param: str, why: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"Unsupported parameter: '{param}': {why}.", param=param)


def wrong(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': {why}.", param=param)


def left_out(what: str) -> str:
    """Replaces a tool's picture in the prompt. A refusal would come again with every later turn of the agent."""
    return f"[{what[:64]} left out: this model reads text only]"
