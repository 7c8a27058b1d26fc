"""The thread that writes blocks behind the engine's back, and keeps the folder within its bound.

Rule 1: the engine never waits for the disk. What does not fit into the queue is not written; it is offered again when
    its prompt is used again.
Rule 2: full blocks are written at once. The end of a prompt waits ``PAUSE`` seconds for its continuation, which makes
    it needless, or for ``flush``.
Rule 3: a disk that is full or may not be written to ends writing, with one line in the log; reading goes on. So does
    a fault of ours, whose traceback is in the log.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.kept_prompts import delete_prompts
from workers.engine.disk.chain import Link
from workers.engine.disk.eviction import Eviction
from workers.engine.disk.folder import BlockFolder, Content
from workers.token_ids import Ids

log = logging.getLogger(__name__)

QUEUE = 256 << 20  # bytes that may wait to be written, or ``BLOCKS`` blocks of a large model
BLOCKS = 4
USES = 1000  # items of the queue, beyond which no uses are noted
PAUSE = 2.0  # seconds


@dataclass(frozen=True)
class Block:
    """``words`` gives keys and values of a block, or the payload of a checkpoint, once they are computed."""

    namespace: str
    link: Link
    ids: Ids
    words: Callable[[], Sequence[Content]]
    size: int  # bytes of ``words``
    due: float = 0.0  # when the end of a prompt is written; by the monotonic clock


@dataclass(frozen=True)
class Use:
    """Blocks of a prompt that was used again."""

    namespace: str
    links: Sequence[Link]


@dataclass(frozen=True)
class Forget:
    """Of a namespace, or of all. ``done`` is told bytes and why some are left."""

    namespace: str | None
    done: Callable[[int, str], None]

    def concerns(self, item: "Item") -> bool:
        return not isinstance(item, Forget) and self.namespace in (None, item.namespace)


Item = Block | Use | Forget


class Writer:
    """``lost`` is told of blocks that are not on disk after all; it is called on the writer's thread."""

    def __init__(self, folder: BlockFolder, eviction: Eviction, lost: Callable[[bytes], None]) -> None:
        self._folder = folder
        self._eviction = eviction
        self._lost = lost
        self._changed = threading.Condition()
        self._queue: deque[Item] = deque()
        self._ends: dict[tuple[str, bytes], Block] = {}  # by namespace and parent, the oldest first
        self._flushing = False
        self._busy = True
        self._room = 0  # bytes that may be written before the next eviction
        self.off = False
        self.written = 0  # bytes
        self.dropped = 0  # blocks that were not written for want of room
        block = folder.layout.token_bytes * 256
        self._most = max(BLOCKS * block, QUEUE)
        self._waits = 0  # bytes
        threading.Thread(target=self._run, name="prompt writer", daemon=True).start()

    @property
    def room(self) -> int:
        """How many bytes the queue takes."""
        return 0 if self.off else max(0, self._most - self._waits)

    @property
    def nbytes(self) -> int:
        """Bytes of what waits or is being written."""
        return self._waits

    def put(self, item: Block | Use) -> None:
        """A full block takes the place of an end that waits behind the same tokens, and so does a longer end."""
        with self._changed:
            if isinstance(item, Use):
                if len(self._queue) < USES:
                    self._queue.append(item)
            else:
                place = item.namespace, item.link.parent
                self._waits += item.size
                if item.link.waits or item.link.full:
                    needless = self._ends.pop(place, None)
                    self._waits -= needless.size if needless else 0
                if item.link.waits:
                    self._ends[place] = item
                else:
                    self._queue.append(item)
            self._changed.notify_all()

    def forget(self, namespace: str | None, done: Callable[[int, str], None]) -> None:
        """Drops what waits of a namespace, or of all, and deletes what is on disk behind what is being written."""
        item = Forget(namespace, done)
        with self._changed:
            waiting = [*self._queue, *self._ends.values()]
            self._waits -= sum(
                each.size for each in waiting if isinstance(each, Block) and item.concerns(each)
            )
            self._queue = deque([item, *(each for each in self._queue if not item.concerns(each))])
            self._ends = {place: each for place, each in self._ends.items() if not item.concerns(each)}
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Writes all that waits; False if it takes longer."""
        with self._changed:
            self._flushing = True
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not (self._queue or self._ends or self._busy), seconds)
            self._flushing = False
            return done

    def _run(self) -> None:
        self._evict()
        while True:
            item = self._next()
            try:
                self._do(item)
            except Exception:
                self.off = True
                log.exception("prompts are not written to %s any more", self._folder.root)
            with self._changed:
                self._waits -= item.size if isinstance(item, Block) else 0
            del item  # and its arrays

    def _do(self, item: Item) -> None:
        if isinstance(item, Forget):
            try:
                item.done(delete_prompts(self._folder.root, item.namespace), "")
            except OSError as error:
                item.done(0, f"{self._folder.root}: {error.strerror or error}")
        elif isinstance(item, Use):
            there = self._folder.touch(item.namespace, item.links)
            for link in item.links[len(there) :]:
                self._lost(link.key)
        elif self.off or not self._write(item):
            self._lost(item.link.key)

    def _next(self) -> Item:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            while True:
                if self._queue:
                    self._busy = True
                    return self._queue.popleft()
                end = next(iter(self._ends.values()), None)
                left = None if end is None else end.due - time.monotonic()
                if end and left is not None and (left <= 0 or self._flushing):
                    self._busy = True
                    return self._ends.pop((end.namespace, end.link.parent))
                self._changed.wait(left)

    def _write(self, block: Block) -> bool:
        """Whether the block is on disk."""
        if block.size > self._room:
            self._evict(block.size)
        if block.size > self._room:
            self.dropped += 1
            return False
        try:
            written = self._folder.write(block.namespace, block.link, block.ids, block.words())
        except OSError as error:
            self._end(error)
            return False
        self._room -= written
        self.written += written
        return True

    def _evict(self, least: int = 0) -> None:
        """``least``: bytes that may be written while another process evicts."""
        try:
            room = self._eviction.run()
        except OSError as error:
            self._end(error)
        else:
            self._room = max(least, self._folder.layout.token_bytes * 256) if room is None else room

    def _end(self, error: OSError) -> None:
        self.off = True
        log.warning("prompts are not written to %s any more: %s", self._folder.root, error.strerror or error)
