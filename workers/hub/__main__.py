"""``python -m workers.hub MODEL`` fetches a model of the hub and says how far it is, a line of JSON at a time.

Each line is a DownloadReport; the last one says that it is whole, or why it cannot be. It ends by itself when nobody
reads the lines any more; what has arrived is kept, and the next one goes on.
"""

import os
import sys
from collections.abc import Sequence

from shared import exits
from shared.protocol import DownloadReport
from shared.settings import Settings, load_settings
from workers.hub.download import Bounds, download
from workers.model.load_error import LoadError

GB = 10**9


def main(arguments: Sequence[str]) -> int:
    settings = load_settings()
    [model] = arguments
    report = _fetch(settings, model)
    _say(report)
    return exits.STOPPED if report.whole else exits.LOAD_MAY_WORK


def _fetch(settings: Settings, model: str) -> DownloadReport:
    source = settings.sources.get(model)
    if source is None:
        return DownloadReport(reason=f"{model!r} is not one of MLX_SERVER_AVAILABLE_MODELS", permanent=True)
    if source.kind != "hub":
        return DownloadReport(whole=True)
    bounds = Bounds(settings.download_silence, int(settings.download_disk_floor_gb * GB))
    try:
        download(source.location, source.revision, bounds, _progress, allow_code=source.allow_code)
    except LoadError as error:
        return DownloadReport(reason=error.reason.removesuffix("."), permanent=error.permanent)
    return DownloadReport(whole=True)


def _progress(phase: str, done: int, total: int) -> None:
    _say(DownloadReport(phase=phase, done=done, total=total))


def _say(report: DownloadReport) -> None:
    try:
        sys.stdout.write(report.model_dump_json(exclude_defaults=True) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(exits.LOAD_MAY_WORK)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    os._exit(code)  # threads that wait for the network are not waited for
