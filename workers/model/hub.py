"""Models from the Hugging Face hub: the local copy, or a download into Hugging Face's own cache (HF_HOME).

Rule: if the hub cannot be reached, the error comes within seconds and says what to do; the library alone would retry
for minutes.
"""

import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from fnmatch import fnmatch
from pathlib import Path
from threading import Thread
from typing import Any

from shared.commands import typed
from workers.model.load_error import LoadError, Progress, first_line

log = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
FLOOR = 1 << 30  # bytes of the disk that a download leaves free
SILENT_SECONDS = 60.0  # without a byte

_DOWNLOADED = [
    *("model*.safetensors", "[0-9]_*/model.safetensors", "*.json", "*.jinja", "*.txt", "*.tiktoken"),
    *("tokenizer.model", "tiktoken.model", "spiece.model"),
]
# fnmatch's * also matches "/", so these exclude folders with other formats (original/, onnx/). Names that begin with
# "ad" are kept for additional_chat_templates/, those that begin with a digit for sentence-transformers' 1_Pooling/.
_NOT_DOWNLOADED = ["[!a0-9]*/*", "a[!d]*/*"]


def local_copy(repository: str, revision: str | None = None) -> Path | None:
    """The snapshot on this disk, complete or not; None if there is none. Does not use the network. Raises LoadError."""
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return _snapshot(repository, revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise LoadError(
            f"{repository!r} is not the name of a hub repository: {error}", permanent=True
        ) from error


def download(repository: str, progress: Progress, revision: str | None = None) -> Path:
    """Downloads in another thread and calls ``progress`` on the caller's. Raises LoadError."""
    progress("connect", 0, 0)
    _reach(repository)
    counter = _DownloadCounter()

    def fetch() -> Path:
        _require_space(repository, revision)
        return _snapshot(repository, revision, bar=counter.bar_class())

    future: Future[Path] = _in_thread(fetch)
    heard, seen = time.monotonic(), -1
    while wait([future], timeout=0.5).not_done:
        progress("download", counter.done, counter.total)
        if counter.done != seen:
            heard, seen = time.monotonic(), counter.done
        if time.monotonic() - heard > SILENT_SECONDS:
            raise _unreachable(repository, f"it sent nothing for {SILENT_SECONDS:.0f} s")
    error = future.exception()
    if error is not None:
        raise _download_failure(repository, error) from error
    progress("download", counter.done, counter.total)
    return future.result()


def _in_thread(work: "Callable[[], Any]") -> "Future[Any]":
    """Runs ``work`` in a thread that is abandoned if it hangs: a DNS lookup has no timeout."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 (the waiting thread raises it)
            future.set_exception(error)

    Thread(target=run, name="hub", daemon=True).start()
    return future


def _reach(repository: str) -> None:
    """Checks that the hub gives any answer. Raises LoadError."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise _unreachable(repository, "HF_HUB_OFFLINE is set")
    future = _in_thread(lambda: _ask(constants.ENDPOINT))
    if wait([future], timeout=CONNECT_SECONDS + 1).not_done:
        raise _unreachable(repository, f"no answer within {CONNECT_SECONDS + 1:.0f} s")
    if (error := future.exception()) is not None:
        raise _unreachable(repository, f"{type(error).__name__}: {first_line(error)}") from error


def _ask(endpoint: str) -> None:
    """Uses the environment's proxies, as the hub library does."""
    import httpx

    with httpx.Client(timeout=CONNECT_SECONDS, follow_redirects=False) as client:
        client.head(endpoint)


def _require_space(repository: str, revision: str | None) -> None:
    """Raises LoadError. A hub that refuses is left to the download, which says why."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

    try:
        tree = list(HfApi().list_repo_tree(repository, recursive=True, revision=revision))
    except HfHubHTTPError:
        return
    needed = sum(file.size for file in tree if isinstance(file, RepoFile) and _is_downloaded(file.path))
    folder = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(_existing(folder)).free
    if needed - _held(folder, repository) + FLOOR > free:
        raise LoadError(
            f"The hub repository {repository} has {_gb(needed)} to fetch, and the disk of Hugging Face's cache has "
            f"{_gb(free)} free, of which {_gb(FLOOR)} stay free. Free some, or name another disk in HF_HOME.",
            permanent=False,
        )


def _is_downloaded(name: str) -> bool:
    """As the hub library reads the patterns."""
    return any(fnmatch(name, pattern) for pattern in _DOWNLOADED) and not any(
        fnmatch(name, pattern) for pattern in _NOT_DOWNLOADED
    )


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _held(cache: Path, repository: str) -> int:
    """Bytes of the repository that are on this disk already."""
    blobs = cache / f"models--{repository.replace('/', '--')}" / "blobs"
    return sum(file.stat().st_size for file in blobs.glob("*") if file.is_file())


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _unreachable(repository: str, why: str) -> LoadError:
    from huggingface_hub import constants

    return LoadError(
        f"{repository} is not on this disk and the hub cannot be reached at {constants.ENDPOINT} ({why}). Check "
        "the network and HTTPS_PROXY, name a mirror in HF_ENDPOINT, or bring the model here first with "
        f"`{typed('hf')} download {repository}`.",
        permanent=False,
    )


def _snapshot(
    repository: str, revision: str | None, *, local_files_only: bool = False, bar: type | None = None
) -> Path:
    from huggingface_hub import snapshot_download

    found = snapshot_download(
        repository,
        revision=revision,
        local_files_only=local_files_only,
        allow_patterns=_DOWNLOADED,
        ignore_patterns=_NOT_DOWNLOADED,
        tqdm_class=bar,
    )
    return Path(found)


class _DownloadCounter:
    """Sums the bytes that the hub library reports to its progress bars; draws none."""

    def __init__(self) -> None:
        self.done = 0
        self.total = 0

    def bar_class(self) -> type:
        from huggingface_hub.utils.tqdm import tqdm

        counter = self

        class Bar(tqdm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                self.in_bytes = kwargs.get("unit") == "B"
                draw_nothing: Callable[..., None] = super().__init__
                draw_nothing(*args, **{**kwargs, "disable": True})
                self.seen = 0

            def update(self, n: float | None = 1) -> None:
                self.seen += int(n or 0)
                if self.in_bytes:
                    counter.done = max(counter.done, self.seen)
                    counter.total = max(counter.total, int(self.total or 0))

        return Bar


def _download_failure(repository: str, error: BaseException) -> LoadError:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            reason = "asks for consent first: accept its terms on huggingface.co and set HF_TOKEN"
            return LoadError(f"The hub repository {repository} {reason}.", permanent=True)
        case errors.RepositoryNotFoundError():
            reason = "does not exist, or is private: check the name, or set HF_TOKEN"
            return LoadError(f"The hub repository {repository} {reason}.", permanent=True)
        case errors.RevisionNotFoundError():
            reason = "does not have the revision that mlx-server.toml names"
            return LoadError(f"The hub repository {repository} {reason}.", permanent=True)
        case errors.LocalEntryNotFoundError():
            later = f"run `{typed('hf')} download {repository}` later"
            reason = f"is not on this disk and the hub cannot be reached; {later}"
            return LoadError(
                f"The hub repository {repository} {reason} ({first_line(error)}).", permanent=False
            )
        case LoadError():
            return error
        case OSError():
            reason = "Check the network and the space on the disk; what has arrived is kept"
        case _:
            reason = "This is not a failure we know; the log has all of it"
            log.error("downloading %s failed", repository, exc_info=error)
    what = f"{type(error).__name__}: {first_line(error)}"
    return LoadError(f"Downloading {repository} failed ({what}). {reason}.", permanent=False)
