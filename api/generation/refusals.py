"""What every dialect says about a field it cannot honour."""

from shared.errors import InvalidRequest, UnsupportedParameter


def unsupported(param: str, why: str) -> UnsupportedParameter:
    return UnsupportedParameter(f"Unsupported parameter: '{param}': {why}.", param=param)


def wrong(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid value for '{param}': {why}.", param=param)


def left_out(what: str) -> str:
    """To the model, of what a tool gave back: a refusal would come again with every further turn of an agent."""
    return f"[{what[:64]} left out: this model reads text only]"
