"""What a download means for the requests that wait for its model: begun, ended, cancelled.

Rule 1: requests wait for a download as for a load, and are refused with its reason when it fails or is cancelled.
Rule 2: a download goes on when nobody waits for it any more; only an operator cancels one.
"""

from collections.abc import Iterable, Iterator

from broker.events import Action, Download, DownloadEnded, DownloadSaid, Note, StopDownload
from broker.memory.accounts import Memory
from broker.models.downloads import Downloads
from broker.models.load_failures import LoadFailures
from broker.reports.counts import Counts
from broker.requests.admission import cancelled_download, unavailable
from broker.requests.requests import Requests
from broker.requests.scheduler import Scheduler
from broker.workers.registry import Registry
from shared.protocol import DownloadReport

_LOGGED = 10  # percent between two lines of the log


class Fetches:
    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        requests: Requests,
        failures: LoadFailures,
        memory: Memory,
        counts: Counts,
    ) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._requests = requests
        self._failures = failures
        self._memory = memory
        self._counts = counts
        self._logged: dict[str, int] = {}

    @property
    def _downloads(self) -> Downloads:
        return self._memory.downloads

    def begin(self, now: float) -> Iterator[Action]:
        wanted = [*self._scheduler.arrivals(), *self._memory.wishes]
        while model := self._downloads.next(wanted, lambda model: self._failures.may_start(model, now)):
            yield Note(f"fetching {model!r} from the hub")
            yield Download(model)

    def hear(self, said: DownloadSaid, now: float) -> Iterator[Action]:
        transfer = self._downloads.of(said.model)
        before = transfer.done if transfer and transfer.total else None  # the first report has what lay here
        self._downloads.note(said.model, said.report, now)
        if transfer and before is not None:
            self._counts.downloaded_bytes[said.model] += max(0, transfer.done - before)
        if transfer and transfer.percent >= self._logged.get(said.model, 0) + _LOGGED:
            self._logged[said.model] = transfer.percent
            told = ", ".join(part for part in (transfer.share, transfer.pace) if part)
            yield Note(f"fetching {said.model!r}: {told}")

    def end(self, ended: DownloadEnded, now: float) -> Iterator[Action]:
        model = ended.model
        self._logged.pop(model, None)
        match self._downloads.end(model, ended.how):
            case "whole":
                yield Note(f"{model!r} is whole on this disk")
                self._counts.downloads[model] += 1
                self._failures.clear(model)
                self._memory.inspections.repeat([model])
                self._scheduler.restart_ages(model, now)
            case "cancelled" if self._downloads.is_under_way(model):
                pass  # another one has been asked for meanwhile
            case "cancelled":
                yield Note(f"the download of {model!r} was cancelled; what has arrived is kept")
                yield from self._refuse_cancelled(model)
            case DownloadReport() as failed:
                yield from self._fail(model, failed, now)

    def cancel(self, model: str) -> Iterator[Action]:
        """An operator's word, also when others have their turn first and no child has been started."""
        yield from self.stop([model])
        if model in self._downloads.absent and model not in self._downloads.running:
            yield from self._refuse_cancelled(model)

    def stop(self, models: Iterable[str]) -> Iterator[Action]:
        for model in models:
            if self._downloads.cancel(model):
                yield StopDownload(model)

    def restart(self, model: str) -> Iterator[Action]:
        """Its settings have changed, perhaps the repository."""
        if self._downloads.restart(model):
            yield StopDownload(model)

    def _refuse_cancelled(self, model: str) -> Iterator[Action]:
        self._memory.wishes.pop(model, None)
        yield from self._requests.refuse_model(model, cancelled_download(model))

    def _fail(self, model: str, failed: DownloadReport, now: float) -> Iterator[Action]:
        self._counts.failed_downloads[model] += 1
        yield Note(
            f"{model!r} cannot be fetched: {failed.reason!r}{' (for good)' if failed.permanent else ''}"
        )
        if not self._registry.of_model(model):
            failure = self._failures.record(model, failed.reason, failed.permanent, now)
            self._memory.wishes.pop(model, None)
            yield from self._requests.refuse_model(model, unavailable(model, failure, now))
