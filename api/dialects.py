"""In which dialect an error is told: by the path that was asked for."""

from collections.abc import Mapping

from api.errors import ErrorDialect, OpenAIErrors
from api.messages.errors import AnthropicErrors


def error_dialect(path: str, headers: Mapping[bytes, bytes]) -> ErrorDialect:
    """Both kinds of client ask for models at one path; Anthropic's say who they are."""
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return AnthropicErrors()
    if path.startswith("/v1/models") and b"anthropic-version" in headers:
        return AnthropicErrors()
    return OpenAIErrors()
