"""What the broker counts by model since it started: loads, evictions, losses, downloads, queue times. Pure."""

from bisect import bisect_left
from collections import Counter, defaultdict

from shared.buckets import REQUEST
from shared.protocol import ModelCounts


class QueueTimes:
    """A histogram; ``counts`` are of the times up to each bound, and of those beyond the last."""

    def __init__(self) -> None:
        self.counts = [0] * (len(REQUEST) + 1)
        self.seconds = 0.0

    def note(self, seconds: float) -> None:
        self.counts[bisect_left(REQUEST, seconds)] += 1
        self.seconds += seconds


class Counts:
    def __init__(self) -> None:
        self.loads: Counter[str] = Counter()
        self.failed_loads: Counter[str] = Counter()
        self.evictions: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.downloads: Counter[str] = Counter()  # that ended whole
        self.failed_downloads: Counter[str] = Counter()
        self.downloaded_bytes: Counter[str] = Counter()
        self.queue_times: defaultdict[str, QueueTimes] = defaultdict(QueueTimes)
        self.swaps = 0

    def of(self, model: str) -> ModelCounts:
        times = self.queue_times.get(model)
        return ModelCounts(
            loads=self.loads[model],
            failed_loads=self.failed_loads[model],
            evictions=self.evictions[model],
            losses=self.losses[model],
            downloads=self.downloads[model],
            failed_downloads=self.failed_downloads[model],
            downloaded_bytes=self.downloaded_bytes[model],
            queue_times=times.counts if times else [],
            queue_seconds=times.seconds if times else 0.0,
        )
