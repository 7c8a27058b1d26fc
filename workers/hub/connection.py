"""One file from the hub, over as many connections as it takes: each goes on where the last one ended.

The hub library (2.4) begins a file anew with each call and removes what had arrived, so files are fetched here and the
library finds them in its cache.

Rule 1: what has arrived stays in ``<etag>.incomplete`` beside its future place, which it gets when it is whole.
Rule 2: a connection that brings nothing for ``silence`` seconds is closed. After ``TRIES`` in a row without one more
    byte the download fails. A hub that cannot resume is read from the beginning, which is no more bytes.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from workers.hub.errors import NoAnswer, damaged, refused, said, silent, wrong_size

TRIES = 5
_CHUNK = 1 << 20  # bytes
_TRY_LATER = {408, 425, 429, 500, 502, 503, 504}
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_SHA256 = re.compile(r"[0-9a-f]{64}")  # the etag of a file in the hub's large storage; others have a git id


@dataclass(frozen=True)
class Remote:
    """A file of a repository as the hub describes it."""

    repository: str
    name: str
    url: str
    etag: str
    size: int


class FileDownload:
    def __init__(
        self,
        file: Remote,
        blobs: Path,
        headers: Mapping[str, str],
        silence: float,
        arrived: Callable[[int], None],
    ) -> None:
        """``blobs``: the folder. ``arrived`` is called with each change of how many bytes are here, and may raise."""
        self._file = file
        self._blob = blobs / file.etag
        self._part = blobs / f"{file.etag}.incomplete"
        self._headers = headers
        self._silence = silence
        self._arrived = arrived

    def here(self) -> int:
        """Bytes on this disk. What is longer than the whole is none of it."""
        if self._is_whole():
            return self._file.size
        size = self._part.stat().st_size if self._part.exists() else 0
        return size if size <= self._file.size else 0

    def _is_whole(self) -> bool:
        return self._blob.exists() and self._blob.stat().st_size == self._file.size

    def run(self) -> None:
        """Raises LoadError, OSError."""
        if self._is_whole():
            return
        most, tries, why = self.here(), 0, ""
        with httpx.Client(timeout=self._timeout(), follow_redirects=True) as client:
            while not self._part.exists() or self._part.stat().st_size != self._file.size:
                if tries == TRIES:
                    raise silent(
                        self._file.repository, f"{TRIES} connections brought nothing more of it ({why})"
                    )
                try:
                    self._go_on(client)
                except (httpx.TransportError, NoAnswer) as error:
                    why = self._why(error)
                here = self.here()
                tries = 0 if here > most else tries + 1
                most = max(most, here)
                if here < self._file.size and tries:
                    time.sleep(min(tries, self._silence))
        self._take_its_place()

    def _timeout(self) -> httpx.Timeout:
        return httpx.Timeout(self._silence, pool=None)

    def _why(self, error: Exception) -> str:
        if isinstance(error, httpx.TimeoutException):
            return f"no byte for {self._silence:g} s"
        return said(error) or type(error).__name__

    def _go_on(self, client: httpx.Client) -> None:
        here = self.here()
        headers = {**self._headers, "Accept-Encoding": "identity"}
        if here:
            headers["Range"] = f"bytes={here}-"
        with client.stream("GET", self._file.url, headers=headers) as answer:
            start = self._start(answer, here)
            with self._part.open("r+b" if self._part.exists() else "wb", buffering=0) as part:
                part.truncate(start)
                part.seek(start)
                self._arrived(start - here)
                for chunk in answer.iter_raw(_CHUNK if self._file.size > 64 * _CHUNK else None):
                    start += len(chunk)
                    if start > self._file.size:
                        raise self._wrong(start)
                    part.write(chunk)
                    self._arrived(len(chunk))

    def _start(self, answer: httpx.Response, here: int) -> int:
        """From which byte on the answer is. Raises LoadError, NoAnswer."""
        if answer.status_code in _TRY_LATER:
            raise NoAnswer(f"the hub answers {answer.status_code}")
        if answer.status_code == 416:
            self._part.unlink(missing_ok=True)
            self._arrived(-here)
            raise NoAnswer("the hub has no such bytes")
        if answer.status_code not in (200, 206):
            raise refused(self._file.repository, answer.status_code)
        whole = answer.headers.get("content-length", "")
        start, total = 0, int(whole) if whole.isdigit() else self._file.size
        if answer.status_code == 206:
            found = _RANGE.fullmatch(answer.headers.get("content-range", ""))
            if found is None or int(found[1]) != here:
                raise NoAnswer("the hub sent other bytes than were asked for")
            start, total = here, self._file.size if found[2] == "*" else int(found[2])
        if total != self._file.size:
            raise self._wrong(total)
        return start

    def _wrong(self, sent: int) -> Exception:
        self._part.unlink(missing_ok=True)
        return wrong_size(self._file.repository, self._file.name, self._file.size, sent)

    def _take_its_place(self) -> None:
        if _SHA256.fullmatch(self._file.etag):
            with self._part.open("rb") as part:
                if hashlib.file_digest(part, "sha256").hexdigest() != self._file.etag:
                    self._part.unlink()
                    raise damaged(self._file.repository, self._file.name)
        self._part.replace(self._blob)
