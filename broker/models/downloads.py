"""Which models are fetched from the hub, how far each is, and how the last try ended. Pure.

Rule 1: a model is fetched by one child process at a time; who asks meanwhile waits for that one.
Rule 2: a model that is not whole on this disk is not loaded; requests and wishes for it have it fetched.
Rule 3: what an operator asked for goes first, and is fetched whether or not it seems to be here: the child knows.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from broker.memory.decisions import gb
from shared.protocol import DownloadReport

AT_ONCE = 2
_WINDOW = 10.0  # seconds over which the rate is measured
_MB = 10**6

Outcome = Literal["whole", "cancelled"] | DownloadReport
"""A DownloadReport: it failed, and this is why."""


@dataclass(slots=True)
class Transfer:
    """``cancelled``: told to end, which it has not done yet."""

    phase: str = ""
    done: int = 0
    total: int = 0
    cancelled: bool = False
    last: DownloadReport | None = None  # its last word
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, report: DownloadReport, now: float) -> None:
        if report.whole or report.reason:
            self.last = report
            return
        self.phase = report.phase or self.phase
        if report.total:
            self.done, self.total = report.done, report.total
            self._samples.append((now, report.done))
            while self._samples[0][0] < now - _WINDOW:
                self._samples.popleft()

    @property
    def rate(self) -> float:
        """Bytes a second, lately."""
        if not self._samples:
            return 0.0
        (began, before), (at, done) = self._samples[0], self._samples[-1]
        return max(0.0, (done - before) / (at - began)) if at > began else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds that are left at this rate; None: not known."""
        return (self.total - self.done) / self.rate if self.rate and self.total else None

    @property
    def percent(self) -> int:
        return 100 * self.done // self.total if self.total else 0

    @property
    def share(self) -> str:
        """``42 % of 1.8 GB``; empty: not known."""
        return f"{self.percent} % of {gb(self.total)}" if self.total else ""

    @property
    def pace(self) -> str:
        """``12.3 MB/s, 31 s left``"""
        if self.eta is None:
            return self.phase if self.phase != "download" else ""
        return f"{self.rate / _MB:.1f} MB/s, {self.eta:.0f} s left"


class Downloads:
    def __init__(self) -> None:
        self.absent: set[str] = set()  # of the hub, and known not to be whole on this disk
        self.running: dict[str, Transfer] = {}
        self.outcomes: dict[str, Outcome] = {}  # of each model's last download
        self.pulls: set[str] = set()  # that operators have asked for, and that have not ended yet
        self._ordered: list[str] = []

    def of(self, model: str) -> Transfer | None:
        return self.running.get(model)

    def holds_back(self, model: str) -> bool:
        """It cannot be loaded now."""
        return model in self.absent or self.is_under_way(model)

    def is_under_way(self, model: str) -> bool:
        return model in self.running or model in self._ordered

    def order(self, model: str) -> None:
        self.pulls.add(model)
        running = self.running.get(model)
        if model not in self._ordered and (running is None or running.cancelled):
            self._ordered.append(model)

    def next(self, wanted: Iterable[str], may_start: Callable[[str], bool]) -> str | None:
        """The model to fetch now, which then counts as running."""
        if len(self.running) >= AT_ONCE:
            return None
        due = [*self._ordered, *(model for model in wanted if model in self.absent and may_start(model))]
        model = next((model for model in due if model not in self.running), None)
        if model is not None:
            if model in self._ordered:
                self._ordered.remove(model)
            self.outcomes.pop(model, None)
            self.running[model] = Transfer()
        return model

    def restart(self, model: str) -> bool:
        """Of what runs, as it fetches by settings of before. Whether a child has to be told."""
        running = self.running.get(model)
        if running is None or running.cancelled:
            return False
        self.cancel(model)
        self.order(model)
        return True

    def cancel(self, model: str) -> bool:
        """Whether a child has to be told."""
        self.pulls.discard(model)
        if model in self._ordered:
            self._ordered.remove(model)
            self.outcomes[model] = "cancelled"
        transfer = self.running.get(model)
        if transfer is None or transfer.cancelled:
            return False
        transfer.cancelled = True
        return True

    def note(self, model: str, report: DownloadReport, now: float) -> None:
        if transfer := self.running.get(model):
            transfer.note(report, now)

    def end(self, model: str, how: str) -> Outcome | None:
        """The child has ended; ``how`` in words, should it have said nothing. None: no download was known."""
        transfer = self.running.pop(model, None)
        if transfer is None:
            return None
        outcome: Outcome
        if transfer.last and transfer.last.whole:
            outcome = "whole"
            self.absent.discard(model)
        elif transfer.cancelled:
            outcome = "cancelled"
        else:
            outcome = transfer.last or DownloadReport(reason=f"its download {how}")
        self.outcomes[model] = outcome
        if model not in self._ordered:
            self.pulls.discard(model)
        return outcome

    def forget(self, model: str) -> None:
        """Its settings have changed, or its files: what was found out may not hold."""
        self.absent.discard(model)
        self.outcomes.pop(model, None)
