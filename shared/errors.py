"""Every error that a client may see, each with its status and code.

Rule 1: the code that refuses chooses the error; the renderer only renders it.
Rule 2: a message says what was wrong, what is allowed and, where it helps, what was probably meant.
"""

import re
from collections.abc import Collection
from difflib import get_close_matches

from shared.protocol import Failure

_MENDED_BY_WAITING = (408, 409, 429, 500, 502, 504)  # clients retry these even without Retry-After

MAX_MESSAGE = 2000  # characters: a Failure travels in a header, which is short

_FOLDERS = re.compile(r"(?<![\w.:/~-])~?/(?:[^/\s'\"`]+/)+(?=[^/\s'\"`]|\b)")
_QUOTED = re.compile(r"""(?<=(["'`]))~?/[^"'`\n]*/(?=[^"'`/\n]+/?\1)""")


def without_folders(text: str) -> str:
    """Absolute paths shortened to their last name, because clients read the text; the paths of URLs are left.

    A folder's name with spaces is known as one only inside quotes.
    """
    return _FOLDERS.sub("", _QUOTED.sub("", text))


class ServingError(Exception):
    """An answer that is not a completion. ``param``: the field at fault; ``retry_after``: whole seconds."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after
        self.prompt_tokens: int | None = None
        self.context_length: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether the same request would fail again however long its client waits."""
        if self.retry_after is not None:
            return False
        return self.status not in _MENDED_BY_WAITING or self.code == RequestCrashedEngine.code

    def to_failure(self) -> Failure:
        return Failure(
            status=self.status,
            code=self.code,
            message=self.message[:MAX_MESSAGE],
            param=self.param,
            retry_after=self.retry_after,
            prompt_tokens=self.prompt_tokens,
            context_length=self.context_length,
        )


class FailureFromElsewhere(ServingError):
    """A Failure that came over the wire, raised here."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, param=failure.param, retry_after=failure.retry_after)
        self.status = failure.status
        self.code = failure.code
        self.prompt_tokens = failure.prompt_tokens
        self.context_length = failure.context_length


class InvalidRequest(ServingError):
    status = 400
    code = "invalid_value"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, of at least ``prompt_tokens``, does not fit ``context_length``; each dialect words it differently."""

    code = "context_length_exceeded"

    def __init__(
        self, message: str, *, param: str | None = None, prompt_tokens: int = 0, context_length: int = 0
    ) -> None:
        super().__init__(message, param=param)
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class WrongKind(InvalidRequest):
    """The model is of a kind that cannot do what is asked."""

    code = "model_kind"


class CannotBePassedOn(InvalidRequest):
    """The request holds a value that no message can carry."""


class ModelChanged(ServingError):
    """A request that began on other weights of the model cannot go on."""

    status = 503
    code = "model_changed"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The files of the model {model!r} were changed while this request ran: what it has said cannot be "
            "continued. Send the request again."
        )


class InvalidSettings(ServingError):
    """An operator's file that was changed and cannot be used; what was in force goes on."""

    status = 400
    code = "invalid_settings"


class ModelConflict(ServingError):
    """An operator's order that the model's settings, or who started its worker, are against."""

    status = 409
    code = "model_conflict"


class ModelNotFound(ServingError):
    status = 404
    code = "model_not_found"

    def __init__(self, model: str, available: Collection[str]) -> None:
        near = get_close_matches(model, available, n=1, cutoff=0.6)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(
            f"The model {model!r} is not served here.{meant} Available: {', '.join(sorted(available)) or 'none'}."
        )


class QueueFull(ServingError):
    status = 503
    code = "queue_full"


class KeyLimitReached(ServingError):
    """The limits of the request's API key do not allow it now."""

    status = 429
    code = "rate_limit_exceeded"


class ModelUnavailable(ServingError):
    """The model cannot be loaded; the message says why."""

    status = 503
    code = "model_unavailable"


class WorkerLost(ServingError):
    """The process that ran the request died, more than once."""

    status = 500
    code = "worker_lost"


class RequestCrashedEngine(ServingError):
    """The request crashed several workers, the last one while it ran alone."""

    code = "request_crashed_engine"


class RequestRefused(RequestCrashedEngine):
    """The request is quarantined: it crashed workers a short while ago."""

    status = 422


class BrokerLost(ServingError):
    status = 503
    code = "broker_unavailable"


class Draining(ServingError):
    status = 503
    code = "draining"


class HostedServerFailed(ServingError):
    """The server of a hosted model ended, closed the connection, or answered with what is no answer."""

    status = 502
    code = "hosted_server_failed"


class EndpointMissing(InvalidRequest):
    """No model of this name has this endpoint."""

    code = "endpoint_missing"
