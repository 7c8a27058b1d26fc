"""Turns every error into an answer, and into OpenAI's body: ``{"error": {message, type, param, code}}``.

Rule 1: a client's mistake is a 4xx that names the field and what is allowed; never a 422, never a 5xx.
Rule 2: the error itself brings its status; this module decides none.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import falcon
from pydantic import ValidationError
from pydantic_core import to_json

from shared.errors import InvalidRequest, ServingError

MAX_KEY = 64  # characters of a client's key in an error
_PROMPT_FIELDS = {
    *(
        "messages",
        "prompt",
        "input",
        "content",
        "text",
        "system",
        "instructions",
        "suffix",
        "output",
        "arguments",
    ),
    *("reasoning_content", "reasoning", "thinking", "refusal", "summary", "data", "documents"),
}


@dataclass(frozen=True)
class ErrorAnswer:
    status: int
    message: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"


class ErrorDialect(Protocol):
    """Renders errors for the clients of one dialect: as a body, or as an event in a stream."""

    request_id_header: bytes

    def status(self, answer: ErrorAnswer) -> int: ...
    def body(self, answer: ErrorAnswer, request_id: str) -> bytes: ...
    def event(self, answer: ErrorAnswer, request_id: str) -> bytes: ...


class OpenAIErrors:
    """Also for clients of no dialect. ``ErrorResponse`` of api.openai.schemas has the same shape."""

    request_id_header = b"x-request-id"

    def status(self, answer: ErrorAnswer) -> int:
        return answer.status

    def body(self, answer: ErrorAnswer, request_id: str) -> bytes:
        keys = ("message", "type", "param", "code")
        return to_json({"error": {key: getattr(answer, key) for key in keys}})

    def event(self, answer: ErrorAnswer, request_id: str) -> bytes:
        return b"data: %b\n\n" % self.body(answer, request_id)


DialectOf = Callable[[str, Mapping[bytes, bytes]], ErrorDialect]  # by path and headers


class InvalidField(InvalidRequest):
    def __init__(self, message: str, *, param: str | None, code: str) -> None:
        super().__init__(message, param=param)
        self.code = code


class RequestError(ServingError):
    """A request that is wrong as HTTP, whatever its fields are."""

    def __init__(
        self, status: int, message: str, headers: dict[str, str] | None = None, *, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self.reason = code


def from_falcon(error: falcon.HTTPError) -> RequestError:
    """The guard answers 404 and 405 before Falcon is called."""
    sentence = error.description or error.title or "The request cannot be served."
    return RequestError(error.status_code, sentence, dict(error.headers or {}))


def answer_to(error: Exception) -> ErrorAnswer:
    match error:
        case RequestError():
            headers = {**_retry(error), **error.headers}
            return ErrorAnswer(error.status, error.message, code=error.reason, headers=headers)
        case ServingError():
            return ErrorAnswer(error.status, error.message, error.param, error.code, _retry(error))
        case _:
            sentence = "The server failed on this request; its log says why."
            return ErrorAnswer(500, sentence, code="internal_error")


def _retry(error: ServingError) -> dict[str, str]:
    """Clients retry by themselves, for minutes; ``x-should-retry: false`` stops that where it cannot help."""
    if error.retry_after is not None:
        return {"retry-after": str(error.retry_after)}
    return {"x-should-retry": "false"} if error.is_final else {}


def invalid(error: ValidationError, body: object) -> InvalidField:
    """The first of pydantic's errors as a sentence. ``body`` tells a client's keys from the tags of unions."""
    first = error.errors(include_url=False)[0]
    kind, param = first["type"], _path(first["loc"], body, missing=first["type"] == "missing")
    if kind == "union_tag_not_found":
        kind, param = "missing", f"{param}.type"
    if kind == "union_tag_invalid":
        return _of_no_known_type(first["ctx"], f"{param}.type")
    if kind == "missing":
        return InvalidField(
            f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
        )
    wanted = first["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
    wanted = wanted[0].lower() + wanted[1:]
    code = "invalid_type" if kind.endswith("_type") else "invalid_value"
    where = f"Invalid value for '{param}'" if param else "Invalid request body"
    got = "" if _is_prompt_text(param) else _value_sent(first["input"])
    return InvalidField(f"{where}: {wanted}{got}.", param=param or None, code=code)


def _of_no_known_type(context: dict[str, Any], param: str) -> InvalidField:
    message = f"Invalid value for '{param}': it must be one of {context['expected_tags']}{_value_sent(context['tag'])}."
    return InvalidField(message, param=param, code="invalid_value")


def _path(loc: Sequence[str | int], body: object, missing: bool) -> str:
    """``("messages", 0, "content", "list", 1)`` -> ``messages[0].content[1]``. ``missing``: its last key is absent."""
    path, here = "", body
    for position, step in enumerate(loc):
        if isinstance(step, int) and isinstance(here, list) and step < len(here):
            path, here = f"{path}[{step}]", here[step]
        elif isinstance(here, dict) and (step in here or (missing and position == len(loc) - 1)):
            key = str(step)[:MAX_KEY]
            path, here = (f"{path}.{key}" if path else key), here.get(step)
    return path


def _is_prompt_text(param: str) -> bool:
    """Whether the field is part of a prompt. Errors never quote a prompt."""
    name = re.sub(r"\[\d+\]", "", param).rpartition(".")[2]
    return name in _PROMPT_FIELDS


def _value_sent(value: Any) -> str:
    """A short scalar as the error quotes it; else nothing."""
    if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 32):
        return f" (got {value!r})" if len(repr(value)) <= 40 else ""
    return ""
