"""One model's blocks in a folder: found, written and read.

Rule 1: a file is written under a temporary name, synced, and renamed; what has its final name is never written to.
Rule 2: a file that cannot be used is unlinked and counted, and is a miss.
Rule 3: folders are 0700, files 0600. Whoever can read them can read the prompts.
Rule 4: a writer holds a lock on its temporary file, so that what a killed process has left can be told and removed.
"""

import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.failpoints import failpoint
from shared.files import make_private
from shared.kept_prompts import SECRET, folder_of
from workers.engine.disk.block import (
    HEADER_MOST,
    VERSION,
    Header,
    Invalid,
    Layout,
    Words,
    checksum,
    checksum_of_bytes,
    decode,
    encode,
)
from workers.engine.disk.chain import (
    BLOCK,
    CHECKPOINT,
    SUFFIX,
    Link,
    Mark,
    beginning,
    links,
    shown,
)
from workers.token_ids import Ids, common_prefix

log = logging.getLogger(__name__)

CURRENT, TEMPORARY = f"blocks-v{VERSION}", ".tmp"
OTHERS = r"blocks-v\d+"  # folders of any version
Content = npt.NDArray[Any]  # words of a block, bytes of a checkpoint
_VECTORS = 512  # buffers of one read; the system takes at least 1,024


@dataclass(frozen=True)
class Found:
    """A block whose first ``tokens`` tokens go on behind what was found before; or a checkpoint, which has none."""

    path: Path
    header: Header
    tokens: int


@dataclass(frozen=True)
class Prefix:
    """What is on disk of a prompt: blocks, and for models with windows or states the checkpoint at their end."""

    blocks: list[Found]
    checkpoint: Found | None = None

    @property
    def tokens(self) -> int:
        if self.checkpoint:
            return self.checkpoint.header.link.end
        return sum(each.tokens for each in self.blocks)

    @property
    def links(self) -> list[Link]:
        return [each.header.link for each in (*self.blocks, *([self.checkpoint] if self.checkpoint else []))]


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

    def prefix(self, namespace: str, ids: Ids) -> Prefix:
        """The longest prefix of ``ids`` that a sequence can go on from."""
        blocks = self.find(namespace, ids) if self.layout.arrays else []
        if not self.layout.checkpoints:
            return Prefix(blocks)
        there = sum(each.tokens for each in blocks) if self.layout.arrays else len(ids)
        for link in reversed(list(links(self.beginning(namespace), ids[:there]))):
            if found := self._checkpoint(namespace, link, ids[link.start : there]):
                end = found.header.link.end
                starts = [each.header.link.start for each in blocks]
                used = [
                    replace(each, tokens=min(each.tokens, end - start))
                    for each, start in zip(blocks, starts, strict=True)
                    if start < end
                ]
                return Prefix(used, found)
        return Prefix([])

    def _checkpoint(self, namespace: str, link: Link, ids: Ids) -> Found | None:
        """The last of those that lie among the tokens of ``link``, whose first are ``ids``."""
        best: Found | None = None
        for path, header in self._children(namespace, link.parent, CHECKPOINT):
            tokens = len(header.ids)
            if (
                isinstance(header.link, Mark)
                and header.link.start == link.start
                and tokens > (len(best.header.ids) if best else 0)
                and common_prefix(header.ids, ids) == tokens
            ):
                best = Found(path, header, 0)
        return best

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

    def _children(self, namespace: str, parent: bytes, suffix: str = SUFFIX) -> Iterator[tuple[Path, Header]]:
        for path in list(self._beside(namespace, parent).glob(f"{shown(parent)}-*{suffix}")):
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
        return self._opened(found, lambda file: self._fill(file, found, into))

    def read_checkpoint(self, found: Found) -> npt.NDArray[np.uint8] | None:
        """The payload; None if the file cannot be used."""
        payload = np.empty(found.header.payload, np.uint8)

        def fill(file: int) -> None:
            view, size = payload.data, found.header.size
            while view:
                if not (count := os.preadv(file, [view[: 1 << 30]], size)):
                    raise Invalid("it is truncated")
                view, size = view[count:], size + count
            if checksum_of_bytes([payload.data]) != found.header.checksum:
                raise Invalid("its windows or states are corrupt")

        return payload if self._opened(found, fill) else None

    def _opened(self, found: Found, use: Callable[[int], None]) -> bool:
        try:
            with found.path.open("rb", buffering=0) as file:
                use(file.fileno())
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

    def write(self, namespace: str, link: Link, ids: Ids, arrays: Sequence[Content]) -> int:
        """Writes a block or a checkpoint, unless it is there, and gives the bytes written. Raises OSError.

        A shorter block that this one goes on from is unlinked; one that holds all of this one makes it needless.
        """
        path = self.path(namespace, link)
        if isinstance(link, Mark):
            return self._write_checkpoint(path, link, ids, arrays)
        shorter = []
        for other, header in self._children(namespace, link.parent):
            common = common_prefix(header.ids, ids)
            if common == len(ids):
                with suppress(OSError):
                    os.utime(other)
                return 0
            if common == len(header.ids):
                shorter.append(other)
        heads = [memoryview(head).cast("B") for array in arrays for head in array]
        written = self._write(path, encode(link, ids, self.layout, checksum(arrays)), heads)
        for other in shorter:
            other.unlink(missing_ok=True)
        return written

    def _write_checkpoint(self, path: Path, link: Mark, ids: Ids, payload: Sequence[Content]) -> int:
        """Its name tells all that it depends on: one that is there is the same."""
        if self._header(path) is not None:
            with suppress(OSError):
                os.utime(path)
            return 0
        buffers = [array.data.cast("B") for array in payload if array.nbytes]
        return self._write(path, encode(link, ids, self.layout, checksum_of_bytes(buffers)), buffers)

    def _write(self, path: Path, header: bytes, buffers: Sequence[memoryview]) -> int:
        for parent in reversed(path.parents[:5]):  # from ``root``, which an operator may have removed
            parent.mkdir(mode=0o700, exist_ok=True)
        temporary = path.with_name(f"{secrets.token_hex(8)}{TEMPORARY}")
        failpoint("disk.create")
        file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with os.fdopen(file, "wb", closefd=False) as out:
                out.write(header)
                failpoint("disk.write")
                for buffer in buffers:
                    out.write(buffer)
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
