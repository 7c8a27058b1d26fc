"""Reports of the last twenty workers that did not end in good order: shapes of their requests, never their text."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from broker.workers.exit_causes import signal_name
from broker.workers.registry import Worker
from shared.protocol import CrashReport, RequestShape, SubmitHeader

_REMEMBERED = 20


@dataclass(slots=True)
class Loss:
    """What was known when a worker was lost; the exit of its process completes it to a CrashReport."""

    how: str
    at: float
    phase: str
    in_flight: list[RequestShape]


class CrashReports:
    def __init__(self) -> None:
        self._last: deque[tuple[CrashReport, float]] = deque(maxlen=_REMEMBERED)

    def record(self, worker: Worker, loss: Loss, code: int | None, last_lines: Sequence[str]) -> None:
        report = CrashReport(
            worker=worker.id,
            model=worker.model,
            pid=worker.pid,
            how=loss.how,
            exit_code=code if code is not None and code >= 0 else None,
            signal=signal_name(-code) if code is not None and code < 0 else None,
            phase=loss.phase,
            memory=worker.memory,
            last_lines=list(last_lines),
            in_flight=loss.in_flight,
        )
        self._last.append((report, loss.at))

    def latest(self, now: float) -> list[CrashReport]:
        """Newest first."""
        return [report.model_copy(update={"ago": now - at}) for report, at in reversed(self._last)]


def phase_of(worker: Worker) -> str:
    """The worker's state, and the phase of its load or, later, of its engine."""
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
