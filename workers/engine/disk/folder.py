"""One model's blocks in a folder: found, written, read, and deleted by namespace.

Rule 1: a file is written under a temporary name, synced, and renamed; what has its final name is never written to.
Rule 2: a file that cannot be used is unlinked and counted, and is a miss.
Rule 3: folders are 0700, files 0600. Whoever can read them can read the prompts.
Rule 4: a writer holds a lock on its temporary file, so that what a killed process has left can be told and removed.
"""

import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.failpoints import failpoint
from shared.files import make_private
from workers.engine.disk.block import (
    HEADER_MOST,
    VERSION,
    Header,
    Invalid,
    Layout,
    Words,
    checksum,
    decode,
    encode,
)
from workers.engine.disk.chain import BLOCK, Link, beginning, folder_of, links, shown
from workers.token_ids import Ids, common_prefix

log = logging.getLogger(__name__)

SECRET, CURRENT, TEMPORARY = "secret", f"blocks-v{VERSION}", ".tmp"
OTHERS = r"blocks-v\d+"  # folders of any version
_VECTORS = 512  # buffers of one read; the system takes at least 1,024


@dataclass(frozen=True)
class Found:
    """A file whose first ``tokens`` tokens go on behind what was found before."""

    path: Path
    header: Header
    tokens: int


def open_root(root: Path) -> bytes:
    """Makes the folder and the node's secret, if they are missing, and gives it. Raises OSError, NotPrivate."""
    make_private(root)
    file = root / SECRET
    with suppress(FileNotFoundError):
        if len(secret := file.read_bytes()) == 32:
            return secret
    fresh = root / f"{SECRET}.{secrets.token_hex(8)}"
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as out:
        out.write(secrets.token_bytes(32))
        out.flush()
        os.fsync(out.fileno())
    try:
        os.link(fresh, file)  # the first of two processes wins
    except FileExistsError:
        if len(file.read_bytes()) != 32:
            fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
    return file.read_bytes()


def delete_namespace(root: Path, namespace: str) -> int:
    """Deletes what is there of a namespace, of every model, and gives the number of deleted folders."""
    name = folder_of(open_root(root), namespace)
    folders = list((root / CURRENT).glob(f"*/{name}"))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    return len(folders)


class BlockFolder:
    """``root`` is shared by all models and workers of a user. Raises OSError, files.NotPrivate."""

    def __init__(self, root: Path, layout: Layout) -> None:
        self.root = root
        self.layout = layout
        self.invalid = 0  # files that were unlinked because they could not be used
        self._secret = open_root(root)
        self._model = root / CURRENT / shown(layout.digest)
        make_private(root / CURRENT)
        make_private(self._model)

    def beginning(self, namespace: str) -> bytes:
        return beginning(self._secret, namespace)

    def path(self, namespace: str, link: Link) -> Path:
        """Below the first byte of the parent, so that siblings are in one folder."""
        return self._beside(namespace, link.parent) / link.name

    def _beside(self, namespace: str, parent: bytes) -> Path:
        return self._model / folder_of(self._secret, namespace) / f"{parent[0]:02x}"

    # ------------------------------------------------------------ find

    def find(self, namespace: str, ids: Ids) -> list[Found]:
        """Walks along the chain of ``ids`` to the first hole; there any block that begins alike gives what it can."""
        found: list[Found] = []
        parent = self.beginning(namespace)
        for link in links(parent, ids):
            header = self._header(path := self.path(namespace, link)) if link.full else None
            if header is None or header.link != link:
                break
            found.append(Found(path, header, BLOCK))
            parent = link.digest
        best = self._alike(namespace, parent, ids[len(found) * BLOCK :])
        return [*found, best] if best else found

    def _alike(self, namespace: str, parent: bytes, ids: Ids) -> Found | None:
        """The child of ``parent`` that has most of its first tokens in common with ``ids``."""
        best: Found | None = None
        for path, header in self._children(namespace, parent):
            tokens = common_prefix(header.ids, ids)
            if tokens > (best.tokens if best else 0):
                best = Found(path, header, tokens)
        return best

    def _children(self, namespace: str, parent: bytes) -> Iterator[tuple[Path, Header]]:
        for path in list(self._beside(namespace, parent).glob(f"{shown(parent)}-*")):
            header = self._header(path)
            if header and header.link.parent == parent:
                yield path, header

    def _header(self, path: Path) -> Header | None:
        try:
            with path.open("rb", buffering=0) as file:
                return decode(
                    os.pread(file.fileno(), HEADER_MOST, 0), os.fstat(file.fileno()).st_size, self.layout
                )
        except Invalid as error:
            self._drop(path, error)
        except OSError:
            pass
        return None

    def _drop(self, path: Path, why: Invalid) -> None:
        self.invalid += 1
        log.warning("a kept prompt on disk was not usable and is gone: %s", why)
        with suppress(OSError):
            path.unlink()

    # ------------------------------------------------------------ read

    def read(self, found: Found, into: Sequence[Words]) -> bool:
        """Fills arrays (heads, tokens, words) of ``found.tokens`` tokens; False if the file cannot be used."""
        try:
            with found.path.open("rb", buffering=0) as file:
                self._fill(file.fileno(), found, into)
            return True
        except Invalid as error:
            self._drop(found.path, error)
        except OSError as error:
            log.info("a kept prompt on disk is not there any more: %s", error.strerror)
        return False

    def _fill(self, file: int, found: Found, into: Sequence[Words]) -> None:
        """A block that is used in part is read whole, because its checksum is of all of it."""
        count = len(found.header.ids)
        arrays = into if count == found.tokens else self._room(count)
        size = found.header.size
        buffers = [memoryview(head).cast("B") for array in arrays for head in array]
        for at in range(0, len(buffers), _VECTORS):
            some = buffers[at : at + _VECTORS]
            wanted = sum(len(buffer) for buffer in some)
            if os.preadv(file, some, size) != wanted:
                raise Invalid("it is truncated")
            size += wanted
        if checksum(arrays) != found.header.checksum:
            raise Invalid("its keys and values are corrupt")
        if arrays is not into:
            for ours, whole in zip(into, arrays, strict=True):
                ours[:] = whole[:, : found.tokens]

    def _room(self, tokens: int) -> list[Words]:
        return [np.empty((heads, tokens, size // 8), np.uint64) for heads, size in self.layout.arrays]

    def touch(self, namespace: str, found: Sequence[Link]) -> list[Link]:
        """Counts these blocks as used, the last one first, so that the end of a chain is evicted before its start.

        Gives those that are there, up to the first hole.
        """
        there = []
        for link in found:
            if not self.path(namespace, link).exists():
                break
            there.append(link)
        for link in reversed(there):
            with suppress(OSError):
                os.utime(self.path(namespace, link))
        return there

    # ------------------------------------------------------------ write

    def write(self, namespace: str, link: Link, ids: Ids, arrays: Sequence[Words]) -> int:
        """Writes a block, unless it is there, and gives the bytes written. Raises OSError.

        A shorter block that this one goes on from is unlinked; one that holds all of this one makes it needless.
        """
        path = self.path(namespace, link)
        shorter = []
        for other, header in self._children(namespace, link.parent):
            common = common_prefix(header.ids, ids)
            if common == len(ids):
                with suppress(OSError):
                    os.utime(other)
                return 0
            if common == len(header.ids):
                shorter.append(other)
        for parent in reversed(path.parents[:5]):  # from ``root``, which an operator may have removed
            parent.mkdir(mode=0o700, exist_ok=True)
        written = self._write(path, encode(link, ids, self.layout, arrays), arrays)
        for other in shorter:
            other.unlink(missing_ok=True)
        return written

    def _write(self, path: Path, header: bytes, arrays: Sequence[Words]) -> int:
        temporary = path.with_name(f"{secrets.token_hex(8)}{TEMPORARY}")
        failpoint("disk.create")
        file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with os.fdopen(file, "wb", closefd=False) as out:
                out.write(header)
                failpoint("disk.write")
                for array in arrays:
                    for head in array:
                        out.write(memoryview(head).cast("B"))
                out.flush()
                failpoint("disk.sync")
                os.fsync(file)
                failpoint("disk.rename")
                temporary.rename(path)
                failpoint("disk.renamed")
                return out.tell()
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
