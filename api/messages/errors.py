"""Whatever goes wrong, as Anthropic's body: ``{type: error, error: {type, message}, request_id}``."""

from pydantic_core import to_json

from api.errors import ErrorAnswer
from shared.anthropic import ErrorDetails, ErrorResponse

OVERLOADED = 529
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
    """``request-id`` is the header that its clients read."""

    request_id_header = b"request-id"

    def status(self, answer: ErrorAnswer) -> int:
        """503 is a queue that is full, or a process that is being restarted: this dialect has one word for them."""
        return OVERLOADED if answer.status == 503 else answer.status

    def body(self, answer: ErrorAnswer, request_id: str) -> bytes:
        status = self.status(answer)
        otherwise = "api_error" if status >= 500 else "invalid_request_error"
        error = ErrorDetails(type=_TYPES.get(status, otherwise), message=answer.message)
        return to_json(ErrorResponse(error=error, request_id=request_id))

    def event(self, answer: ErrorAnswer, request_id: str) -> bytes:
        return b"event: error\ndata: %b\n\n" % self.body(answer, request_id)
