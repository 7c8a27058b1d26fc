"""Turns errors into Anthropic's body: ``{type: error, error: {type, message}, request_id}``."""

from collections.abc import AsyncIterable, AsyncIterator

from pydantic_core import to_json

from api.http.errors import ErrorAnswer
from api.messages.schemas import ErrorDetails, ErrorResponse
from shared.errors import ContextLengthExceeded, InvalidRequest, ServingError
from shared.protocol import Delta

OVERLOADED = 529


class PromptTooLong(InvalidRequest):
    """Clients look for these words before they shorten a conversation."""

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(f"prompt is too long: {tokens} tokens > {limit} maximum", param="messages")


def anthropic_error(error: ServingError) -> ServingError:
    if error.code != ContextLengthExceeded.code or error.prompt_tokens is None:
        return error
    limit = error.context_length or 0
    return PromptTooLong(max(error.prompt_tokens, limit + 1), limit)


async def with_anthropic_errors(replies: AsyncIterable[list[Delta]]) -> AsyncIterator[list[Delta]]:
    """The replies; their errors in the dialect's words."""
    try:
        async for batch in replies:
            yield batch
    except ServingError as error:
        raise anthropic_error(error) from error


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}


class AnthropicErrors:
    """Clients read the header ``request-id``."""

    request_id_header = b"request-id"

    def status(self, answer: ErrorAnswer) -> int:
        """The dialect has one status for a full queue and for a restart."""
        return OVERLOADED if answer.status == 503 else answer.status

    def body(self, answer: ErrorAnswer, request_id: str) -> bytes:
        status = self.status(answer)
        otherwise = "api_error" if status >= 500 else "invalid_request_error"
        error = ErrorDetails(type=_TYPES.get(status, otherwise), message=answer.message)
        return to_json(ErrorResponse(error=error, request_id=request_id))

    def event(self, answer: ErrorAnswer, request_id: str) -> bytes:
        return b"event: error\ndata: %b\n\n" % self.body(answer, request_id)
