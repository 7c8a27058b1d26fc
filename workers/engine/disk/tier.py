"""The SSD tier of the prefix cache: prompts survive the process that has read them.

What the engine prefills is offered here and written behind its back; a prompt that comes is looked for on disk before
it is prefilled, on another thread, and joins the queue with what was found as if that much were prefilled already.
Keys and values of full attention lie in blocks. A window or a state cannot be cut into blocks: it is a checkpoint, and
serves prompts that have all of its tokens.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache

from workers.engine.disk.block import Words
from workers.engine.disk.chain import BLOCK, Link, links, mark
from workers.engine.disk.checkpoint import Payload, Snapshot, full_parts, restore
from workers.engine.disk.folder import BlockFolder, Content, Prefix
from workers.engine.disk.writer import PAUSE, Block, Use, Writer
from workers.engine.figures import Report
from workers.engine.kv.footprint import GROWTH
from workers.engine.kv.mlx_caches import Cache
from workers.engine.prefixes.checkpoints import Layout
from workers.sequence import TokenSequence
from workers.token_ids import Ids, as_ids

LEAST = 128  # tokens; a shorter prompt is prefilled faster than looked for
WORTH = 64  # tokens that must be saved
STRIDE = 4 * BLOCK  # tokens of a long prompt after which what is prefilled is offered
KNOWN = 1 << 17  # digests that are remembered
RATE = 5e8  # bytes a second, until a read was measured
SMOOTHING = 0.3  # weight of the newest measurement
RETRY = 1.1  # by so much the rate is taken to be better after each read that was not worth it
PATIENCE = 2.0  # seconds for a lookup, and at least for a read; then the prompt is prefilled
LOOKUP = 0.02  # seconds that an idle engine waits for all prompts that came together


class Landed(NamedTuple):
    """A prompt that may be queued. ``found``: a cache of its first ids, and how many."""

    ids: list[int]
    sequences: list[TokenSequence]
    since: int
    came: float
    found: tuple[Cache, int] | None = None


class ReadPrefix(NamedTuple):
    """How many blocks were read, and the payload of the checkpoint."""

    blocks: int
    checkpoint: Payload | None


@dataclass(eq=False)
class Arrival:
    """A prompt that is looked for on disk. ``memory``: its tokens that the prefix cache in memory has."""

    ids: list[int]
    sequences: list[TokenSequence]
    since: int
    came: float
    memory: int
    lookup: Future[Prefix]
    read: Future[ReadPrefix] | None = None
    found: Prefix | None = None
    arrays: list[mx.array] | None = None  # (1, heads, tokens, words)
    began: float = 0.0
    deadline: float = 0.0

    @property
    def ended(self) -> bool:
        return all(sequence.ended for sequence in self.sequences)

    @property
    def tokens(self) -> int:
        return self.found.tokens if self.found else 0

    @property
    def checkpoint(self) -> int:
        """Bytes of its windows and states."""
        return self.found.checkpoint.header.payload if self.found and self.found.checkpoint else 0

    @property
    def nbytes(self) -> int:
        """Of what is being read."""
        return 0 if self.arrays is None else self.checkpoint + sum(array.nbytes for array in self.arrays)


class Disk(Protocol):
    """What the engine uses; its thread calls all of it. See ``DiskTier``."""

    @property
    def arriving(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def report(self) -> Report: ...
    def close(self) -> None: ...
    def forget(self, namespace: str | None, done: Callable[[int, str], None]) -> None: ...
    def offer(self, namespace: str, ids: list[int], cut: Callable[[int], Cache]) -> None: ...
    def ask(
        self, ids: list[int], sequences: list[TokenSequence], since: int, came: float, memory: int
    ) -> bool: ...
    def wait(self) -> None: ...
    def landed(self, free: int, seconds: Callable[[int, int], float], *, idle: bool) -> list[Landed]: ...


class NoDisk:
    """For an engine whose prompts do not survive it."""

    arriving = nbytes = 0

    def report(self) -> Report:
        return {}

    def close(self) -> None: ...
    def forget(self, namespace: str | None, done: Callable[[int, str], None]) -> None:
        done(0, "")

    def offer(self, namespace: str, ids: list[int], cut: Callable[[int], Cache]) -> None: ...
    def ask(
        self, ids: list[int], sequences: list[TokenSequence], since: int, came: float, memory: int
    ) -> bool:
        return False

    def wait(self) -> None: ...
    def landed(self, free: int, seconds: Callable[[int, int], float], *, idle: bool) -> list[Landed]:
        return []


class DiskTier:
    """``dtypes``: of keys and values of each full layer, as the folder's layout has them. ``layers``: how the caches of
    a model with checkpoints are divided into layers. The engine's thread calls it.
    """

    def __init__(
        self,
        folder: BlockFolder,
        writer: Callable[[Callable[[bytes], None]], Writer],
        dtypes: list[mx.Dtype],
        layers: Layout = (),
    ) -> None:
        self._folder = folder
        self._layers = layers
        self._dtypes = dtypes
        self._known: set[bytes] = set()  # digests of what is on disk or will be; the writer takes some out
        self.writer = writer(self._known.discard)
        self._threads = ThreadPoolExecutor(2, "prompt reader")
        self._arrivals: list[Arrival] = []
        self._rate = RATE
        self._stuck: list[Future[Any]] = []  # what was given up and has not ended
        self.read_tokens = 0

    @property
    def arriving(self) -> int:
        """Sequences of prompts that are looked for or read."""
        return sum(len(arrival.sequences) for arrival in self._arrivals)

    @property
    def nbytes(self) -> int:
        """Bytes of what is being read or waits to be written."""
        return self._reading + self.writer.nbytes

    @property
    def _reading(self) -> int:
        return sum(arrival.nbytes for arrival in self._arrivals)

    def report(self) -> Report:
        """Figures for the heartbeat."""
        return {
            "disk_read_tokens": self.read_tokens,
            "disk_written_bytes": self.writer.written,
            "disk_invalid_files": self._folder.invalid,
        }

    def close(self, seconds: float = 5.0) -> None:
        """Writes what waits, so that the next life finds it."""
        self.writer.flush(seconds)

    def forget(self, namespace: str | None, done: Callable[[int, str], None]) -> None:
        """Deletes what lies on disk of a namespace, or of all, of any model, and drops what waits to be written.

        ``done`` is told the bytes and why some are left, on the writer's thread.
        """
        self._known.clear()
        self.writer.forget(namespace, done)

    # ------------------------------------------------------------ write

    def offer(self, namespace: str, ids: list[int], cut: Callable[[int], Cache]) -> None:
        """Writes what the disk lacks of ``ids``, soon. ``cut`` copies their cache from a token on."""
        if len(ids) < LEAST or self.writer.off:
            return
        mine = as_ids(ids)
        chain = list(links(self._folder.beginning(namespace), mine))
        layout = self._folder.layout
        place = [mark(chain[-1])] if layout.checkpoints else []
        chain = chain if layout.arrays else []
        there = next((i for i, link in enumerate(chain) if link.key not in self._known), len(chain))
        marked = place if there == len(chain) and self._known.issuperset(link.key for link in place) else []
        if used := [*chain[:there], *marked]:
            self.writer.put(Use(namespace, used))
        lacking = chain[there:]
        if layout.arrays:
            lacking = lacking[: self.writer.room // (layout.token_bytes * BLOCK)]
        writes = place if not marked and there + len(lacking) == len(chain) and self.writer.room else []
        if len(self._known) > KNOWN:
            self._known.clear()
        if lacking or writes:
            start = (lacking or chain or place)[0 if lacking else -1].start
            self._write(namespace, mine, lacking, writes, (start, cut(start)))

    def _write(
        self, namespace: str, ids: Ids, lacking: list[Link], place: Sequence[Link], own: tuple[int, Cache]
    ) -> None:
        """``own``: a cache whose full layers have the tokens from the first on."""
        first, cache = own
        words = [array.view(mx.uint64) for layer in full_parts(cache) for array in (layer.keys, layer.values)]
        if lacking:
            mx.async_eval(words)
        due = time.monotonic() + PAUSE
        for link in lacking:
            part = slice(link.start - first, link.end - first)
            size = self._folder.layout.token_bytes * (link.end - link.start)
            self._put(namespace, link, ids, partial(_words, words, part), size, due)
        for link in place:
            snapshot = Snapshot(cache)
            if snapshot.nbytes <= self.writer.room or not self.writer.nbytes:
                self._put(namespace, link, ids, snapshot.payload, snapshot.nbytes, due)

    def _put(
        self,
        namespace: str,
        link: Link,
        ids: Ids,
        content: Callable[[], Sequence[Content]],
        size: int,
        due: float,
    ) -> None:
        self._known.add(link.key)
        self.writer.put(Block(namespace, link, ids[link.start : link.end], content, size, due))

    # ------------------------------------------------------------ read

    def ask(
        self, ids: list[int], sequences: list[TokenSequence], since: int, came: float, memory: int
    ) -> bool:
        """Whether the prompt is looked for on disk; ``landed`` gives it back. ``memory``: see ``Arrival``."""
        if len(ids) - 1 < max(LEAST, memory + WORTH):
            return False
        self._stuck = [future for future in self._stuck if not future.done()]
        if self._stuck:  # a disk that does not answer delays one prompt and no more
            return False
        namespace = sequences[0].job.generation.cache_namespace
        lookup = self._threads.submit(self._find, namespace, as_ids(ids[:-1]))
        deadline = time.monotonic() + PATIENCE
        self._arrivals.append(Arrival(ids, sequences, since, came, memory, lookup, deadline=deadline))
        return True

    def wait(self) -> None:
        """For an engine without other work: until all lookups are over, or until a read is, but not for long."""
        if looking := [each.lookup for each in self._arrivals if not each.lookup.done()]:
            wait(looking, LOOKUP)
        elif reading := [each.read for each in self._arrivals if each.read]:
            wait(reading, LOOKUP, FIRST_COMPLETED)

    def landed(self, free: int, seconds: Callable[[int, int], float], *, idle: bool) -> list[Landed]:
        """The prompts that are ready. ``free``: bytes; an ``idle`` engine has room for one, whatever is free.

        ``seconds`` tells what prefill takes: tokens, context.
        """
        landed = []
        for arrival in list(self._arrivals):
            if arrival.ended:
                self._arrivals.remove(arrival)
            elif not (pending := arrival.read or arrival.lookup).done():
                if time.monotonic() > arrival.deadline:
                    self._stuck.append(pending)
                    landed.append(self._leave(arrival))
            elif arrival.read is not None:
                landed.append(self._land(arrival, arrival.read.result()))
            else:
                arrival.found = arrival.lookup.result()
                size = arrival.checkpoint + self._folder.layout.token_bytes * (arrival.tokens + GROWTH)
                if not self._worth(arrival, seconds):
                    landed.append(self._leave(arrival))
                elif size <= free or (idle and not self._reading):
                    self._begin(arrival)
                    took = seconds(arrival.tokens - arrival.memory, arrival.memory)
                    arrival.deadline = arrival.began + max(PATIENCE, took)
                    free -= size
        return landed

    def _leave(self, arrival: Arrival, cache: Cache | None = None, tokens: int = 0) -> Landed:
        self._arrivals.remove(arrival)
        return Landed(
            *(arrival.ids, arrival.sequences, arrival.since, arrival.came), (cache, tokens) if cache else None
        )

    def _find(self, namespace: str, ids: Ids) -> Prefix:
        """On a thread of its own, as ``_read``."""
        try:
            return self._folder.prefix(namespace, ids)
        except OSError:
            return Prefix([])

    def _worth(self, arrival: Arrival, seconds: Callable[[int, int], float]) -> bool:
        """Whether reading is faster than prefill, by the measured rates of both."""
        saved = arrival.tokens - arrival.memory
        if saved < WORTH:
            return False
        took = self._size(arrival, arrival.tokens) / self._rate
        if took <= seconds(saved, arrival.memory):
            return True
        self._rate *= RETRY  # a slow moment must not be the last measurement
        return False

    def _size(self, arrival: Arrival, tokens: int) -> int:
        return arrival.checkpoint + self._folder.layout.token_bytes * tokens

    def _begin(self, arrival: Arrival) -> None:
        """The arrays are made on this thread, with room to grow, and filled on another."""
        assert arrival.found is not None
        self._known.update(link.key for link in arrival.found.links)
        tokens = arrival.tokens + -arrival.tokens % GROWTH
        arrays = [
            mx.zeros((1, heads, tokens, size // 8), mx.uint64) for heads, size in self._folder.layout.arrays
        ]
        mx.eval(arrays)
        arrival.arrays, arrival.began = arrays, time.monotonic()
        namespace = arrival.sequences[0].job.generation.cache_namespace
        views = [np.array(array, copy=False)[0] for array in arrays]
        arrival.read = self._threads.submit(self._read, namespace, arrival.found, views)

    def _read(self, namespace: str, found: Prefix, views: list[Words]) -> ReadPrefix:
        start = 0
        for number, each in enumerate(found.blocks):
            if not self._folder.read(each, [view[:, start : start + each.tokens] for view in views]):
                self._known.discard(each.header.link.key)
                return ReadPrefix(number, None)
            start += each.tokens
        payload = self._folder.read_checkpoint(found.checkpoint) if found.checkpoint else None
        if found.checkpoint and payload is None:
            self._known.discard(found.checkpoint.header.link.key)
        else:
            self.writer.put(Use(namespace, found.links))
        return ReadPrefix(len(found.blocks), payload)

    def _land(self, arrival: Arrival, read: ReadPrefix) -> Landed:
        assert arrival.found is not None and arrival.arrays is not None
        tokens = sum(each.tokens for each in arrival.found.blocks[: read.blocks])
        if self._folder.layout.checkpoints:
            tokens = 0 if read.checkpoint is None else arrival.tokens
        if tokens - arrival.memory < WORTH:
            return self._leave(arrival)
        took = max(time.monotonic() - arrival.began, 1e-6)
        rate = self._size(arrival, tokens) / took
        self._rate += SMOOTHING * (rate - self._rate)
        self.read_tokens += tokens
        arrays = [array.view(dtype) for array, dtype in zip(arrival.arrays, self._dtypes, strict=True)]
        cache = []
        for keys, values in zip(arrays[::2], arrays[1::2], strict=True):
            layer = KVCache()
            layer.state = keys, values, tokens
            cache.append(layer)
        if read.checkpoint is not None:
            cache = restore(read.checkpoint, cache, self._layers)
        return self._leave(arrival, cache, tokens)


def _words(arrays: list[mx.array], part: slice) -> list[Words]:
    """Without a copy: the arrays are never written to, and are kept by what is given."""
    return [np.array(array, copy=False)[0, :, part] for array in arrays]
