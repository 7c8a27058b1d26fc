"""The variables that a request may set in the model's chat template, by name and type. Pure."""

from typing import Any

from api.generation.refusals import unsupported, wrong
from api.http.errors import MAX_KEY

ALLOWED = {"enable_thinking": bool, "thinking": bool, "reasoning_effort": str, "thinking_budget": int}


def effort_kwargs(effort: str | None) -> dict[str, Any]:
    """As it is: the worker tells it in the words that the model's template knows."""
    if effort is None:
        return {}
    if effort == "none":
        return {"enable_thinking": False}
    return {"enable_thinking": True, "reasoning_effort": effort}


def thinking_kwargs(wanted: bool) -> dict[str, Any]:
    """Templates know the switch under both names."""
    return {"enable_thinking": wanted, "thinking": wanted}


def budget_kwargs(tokens: int | None) -> dict[str, Any]:
    """``tokens``: of thinking, at most."""
    return {} if tokens is None else {"enable_thinking": True, "thinking_budget": tokens}


def checked_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in kwargs.items() if value is not None}
    for key, value in given.items():
        param = f"chat_template_kwargs.{key[:MAX_KEY]}"
        wanted = ALLOWED.get(key)
        if wanted is None:
            raise unsupported(param, f"allowed: {', '.join(ALLOWED)}")
        if wanted is int and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise wrong(param, "it must be a number of tokens")
        if not isinstance(value, wanted):
            raise wrong(param, f"it must be a {wanted.__name__}")
    return given
