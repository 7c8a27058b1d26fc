"""The errors by which every dialect refuses a field."""

from shared.errors import InvalidRequest, UnsupportedParameter


def unsupported(param: str, why: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"Unsupported parameter: '{param}': {why}.", param=param)


def wrong(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': {why}.", param=param)


def left_out(what: str) -> str:
    """Replaces a tool's picture in the prompt. A refusal would come again with every later turn of the agent."""
    return f"[{what[:64]} left out: this model reads text only]"
