"""What is known of the last workers that did not end in good order; shapes of what they ran, never its text."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from broker.exit_causes import signal_name
from broker.registry import Worker
from shared.protocol import Death, RequestShape, SubmitHeader

_REMEMBERED = 20


@dataclass(slots=True)
class Fall:
    """What there was when a worker was lost; how its process ended is learned later."""

    how: str
    at: float
    phase: str
    in_flight: list[RequestShape]


class Deaths:
    def __init__(self) -> None:
        self._last: deque[tuple[Death, float]] = deque(maxlen=_REMEMBERED)

    def record(self, worker: Worker, fall: Fall, code: int | None, last_lines: Sequence[str]) -> None:
        death = Death(
            worker=worker.id,
            model=worker.model,
            pid=worker.pid,
            how=fall.how,
            exit_code=code if code is not None and code >= 0 else None,
            signal=signal_name(-code) if code is not None and code < 0 else None,
            phase=fall.phase,
            memory=worker.memory,
            last_lines=list(last_lines),
            in_flight=fall.in_flight,
        )
        self._last.append((death, fall.at))

    def report(self, now: float) -> list[Death]:
        """The latest first."""
        return [death.model_copy(update={"ago": now - at}) for death, at in reversed(self._last)]


def phase_of(worker: Worker) -> str:
    """What the worker was doing: while it loads, the load's phase; later the engine's."""
    doing = str(worker.engine.get("phase", "")) if worker.engine else worker.phase
    return f"{worker.state.value}, {doing}" if doing else worker.state.value


def shape_of(submit: SubmitHeader) -> RequestShape:
    return RequestShape(
        request_id=submit.request_id,
        attempt=submit.attempt,
        prompt=submit.prompt,
        size=submit.size,
        max_tokens=submit.max_tokens,
        n=submit.n,
        held=submit.lengths,
    )
