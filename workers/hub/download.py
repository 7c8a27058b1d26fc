"""Fetches a model's repository from the hub into Hugging Face's own cache, beside whatever else uses that.

Rule 1: one process at a time fetches a repository; another one waits for it, and then has nothing to do.
Rule 2: a hub that cannot be reached is said within seconds; the hub library alone would retry for minutes.
Rule 3: the disk keeps ``floor`` bytes free, before the first byte and with each one.
"""

import fcntl
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

from shared.hub_cache import folder_of, lock_file
from workers.hub.connection import FileDownload, Remote
from workers.hub.errors import disk_full, failure, said, silent, unreachable
from workers.hub.local import NOT_FETCHED, is_fetched, patterns
from workers.model.load import whole_copy
from workers.model.load_error import LoadError, Progress

REACH = 2.0  # seconds for the hub's first answer
ASK = 60.0  # seconds for the list of files, and for giving them their places
AT_ONCE = 4  # files
_LOOK = 0.25  # seconds between two reports
_LOOK_AT_DISK = 0.5
_ETAG = re.compile(r"\w[\w.-]*", re.ASCII)  # it becomes the name of a file

T = TypeVar("T")


@dataclass(frozen=True)
class Bounds:
    """``silence``: seconds without a byte after which a connection is given up. ``floor``: bytes that stay free."""

    silence: float = 30.0
    floor: int = 1 << 30


def download(
    repository: str, revision: str | None, bounds: Bounds, progress: Progress, *, allow_code: bool = False
) -> Path:
    """Returns the folder when it is whole. Calls ``progress`` on the caller's thread. Raises LoadError."""
    try:
        with _alone(repository, lambda: progress("wait", 0, 0)):
            return whole_copy(repository, revision, allow_code) or _fetch(
                repository, revision, bounds, progress, allow_code
            )
    except Exception as error:
        raise failure(repository, error) from error


@contextmanager
def _alone(repository: str, waits: Callable[[], None]) -> Iterator[None]:
    path = lock_file(repository)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waits()
                time.sleep(_LOOK)
        yield


def _fetch(
    repository: str, revision: str | None, bounds: Bounds, progress: Progress, allow_code: bool
) -> Path:
    progress("connect", 0, 0)
    _reach(repository)
    commit, sizes = _within(ASK, repository, lambda: _offered(repository, revision, allow_code), progress)
    transfer = _Transfer(repository, commit, sizes, bounds)
    transfer.require_space()
    transfer.run(progress)
    progress("finish", transfer.here, transfer.total)
    _within(ASK, repository, lambda: _place(repository, revision or "main", commit, allow_code), progress)
    folder = whole_copy(repository, revision, allow_code)
    if folder is None:
        raise LoadError(
            f"The hub repository {repository} is no model that can be served: it has no config.json, no "
            "model*.safetensors or no tokenizer, or not all of its weights. Name a conversion for MLX.",
            permanent=True,
        )
    return folder


def _reach(repository: str) -> None:
    """Checks that the hub gives any answer. Raises LoadError."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise unreachable(repository, "HF_HUB_OFFLINE is set")
    answer = _in_thread(lambda: _ask(constants.ENDPOINT))
    if wait([answer], timeout=REACH).not_done:
        raise unreachable(repository, f"no answer within {REACH:g} s")
    if (error := answer.exception()) is not None:
        raise unreachable(repository, f"{type(error).__name__}: {said(error)}") from error


def _ask(endpoint: str) -> None:
    """Uses the environment's proxies, as the hub library does."""
    import httpx

    with httpx.Client(timeout=REACH, follow_redirects=False) as client:
        client.head(endpoint)


def _offered(repository: str, revision: str | None, allow_code: bool) -> tuple[str, dict[str, int]]:
    """The commit, and the sizes of the files to fetch. Raises what the hub library raises."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    hub = HfApi()
    commit = hub.model_info(repository, revision=revision).sha
    assert commit, "the hub names the commit"
    tree = hub.list_repo_tree(repository, recursive=True, revision=commit)
    return commit, {
        f.path: f.size for f in tree if isinstance(f, RepoFile) and is_fetched(f.path, allow_code)
    }


def _place(repository: str, revision: str, commit: str, allow_code: bool) -> None:
    """The hub library finds every file in its cache, and writes its links, its list of files and its references."""
    from huggingface_hub import snapshot_download

    snapshot_download(
        repository,
        revision=commit,
        allow_patterns=patterns(allow_code),
        ignore_patterns=NOT_FETCHED,
        tqdm_class=_no_bar(),
    )
    if revision != commit:
        reference = folder_of(repository) / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)


def _no_bar() -> type:
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            draw_nothing: Callable[..., None] = super().__init__
            draw_nothing(*args, **{**kwargs, "disable": True})

    return Bar


class _Transfer:
    """All files of a commit: their bytes are counted together, and one that fails ends it."""

    def __init__(self, repository: str, commit: str, sizes: dict[str, int], bounds: Bounds) -> None:
        self._repository = repository
        self._commit = commit
        self._bounds = bounds
        self._blobs = folder_of(repository) / "blobs"
        self._lock = Lock()
        self._contents: defaultdict[str, Lock] = defaultdict(Lock)  # by etag
        self._next_look = 0.0
        self.total = sum(sizes.values())
        self.here = 0
        self._names: SimpleQueue[tuple[str, int]] = SimpleQueue()
        for name, size in sorted(sizes.items(), key=lambda item: item[1]):
            self._names.put((name, size))

    def require_space(self) -> None:
        """Raises LoadError."""
        self._blobs.mkdir(parents=True, exist_ok=True)
        kept = sum(file.stat().st_size for file in self._blobs.iterdir() if file.is_file())
        left, free = max(0, self.total - kept), shutil.disk_usage(self._blobs).free
        if left + self._bounds.floor > free:
            raise disk_full(self._repository, left, free, self._bounds.floor)

    def run(self, progress: Progress) -> None:
        """Raises LoadError and whatever the hub library raises."""
        lanes = {_in_thread(self._lane) for _ in range(AT_ONCE)}
        while lanes:
            progress("download", self.here, self.total)
            ended, lanes = wait(lanes, _LOOK, FIRST_EXCEPTION)
            for lane in ended:
                lane.result()

    def _lane(self) -> None:
        from huggingface_hub.utils._headers import build_hf_headers

        headers = build_hf_headers()
        while True:
            try:
                name, size = self._names.get_nowait()
            except Empty:
                return
            remote = self._remote(name, size)
            with self._only(remote.etag):
                file = FileDownload(remote, self._blobs, headers, self._bounds.silence, self._arrived)
                self._arrived(file.here())
                file.run()

    def _only(self, etag: str) -> Lock:
        """Files of the same content are one file of the cache: one lane fetches it, the next one finds it whole."""
        with self._lock:
            return self._contents[etag]

    def _remote(self, name: str, size: int) -> Remote:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(self._repository, name, revision=self._commit)
        etag = get_hf_file_metadata(url, timeout=self._bounds.silence).etag
        if not etag or not _ETAG.fullmatch(etag):
            raise LoadError(f"The hub gives no usable etag for {name} of {self._repository}.", False)
        return Remote(self._repository, name, url, etag, size)

    def _arrived(self, count: int) -> None:
        """Raises LoadError when the disk fills up."""
        with self._lock:
            self.here += count
            if (now := time.monotonic()) < self._next_look:
                return
            self._next_look = now + _LOOK_AT_DISK
        free = shutil.disk_usage(self._blobs).free
        if free < self._bounds.floor:
            raise disk_full(self._repository, self.total - self.here, free, self._bounds.floor)


def _within(seconds: float, repository: str, work: Callable[[], T], progress: Progress) -> T:
    """Raises LoadError when it takes longer: the hub library retries for minutes."""
    future = _in_thread(work)
    until = time.monotonic() + seconds
    while wait([future], _LOOK).not_done:
        progress("", 0, 0)
        if time.monotonic() > until:
            raise silent(repository, f"the hub did not answer within {seconds:g} s")
    return future.result()


def _in_thread(work: Callable[[], T]) -> "Future[T]":
    """Runs ``work`` in a thread that is abandoned if it hangs: a DNS lookup has no timeout."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 (the waiting thread raises it)
            future.set_exception(error)

    Thread(target=run, name="hub", daemon=True).start()
    return future
