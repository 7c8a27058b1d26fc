"""What the broker tells a client that gets no completion."""

from broker.events import TellApi
from broker.load_failures import FailedLoad
from broker.scheduler import Waiting
from shared.errors import Draining, ModelUnavailable, ServingError
from shared.protocol import Refused

_DRAINING_RETRY = 10


def refusal(api: str, request_id: str, attempt: int, error: ServingError) -> TellApi:
    return TellApi(api, Refused(request_id=request_id, attempt=attempt, failure=error.to_failure()))


def refuse(waiting: Waiting, error: ServingError) -> TellApi:
    return refusal(waiting.api, waiting.submit.request_id, waiting.submit.attempt, error)


def draining() -> Draining:
    return Draining("The server is shutting down.", retry_after=_DRAINING_RETRY)


def unavailable(model: str, failure: FailedLoad, now: float) -> ModelUnavailable:
    return ModelUnavailable(
        f"The model {model!r} cannot be loaded: {failure.reason}.", retry_after=failure.retry_after(now)
    )
