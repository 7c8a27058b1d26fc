"""In which dialect an error is told: by the path that was asked for."""

from collections.abc import Mapping

from api.http.errors import ErrorDialect, OpenAIErrors
from api.messages.errors import AnthropicErrors


def error_dialect(path: str, headers: Mapping[bytes, bytes]) -> ErrorDialect:
    """Anthropic's clients also say who they are, wherever they ask."""
    messages = path == "/v1/messages" or path.startswith("/v1/messages/")
    return AnthropicErrors() if messages or b"anthropic-version" in headers else OpenAIErrors()
