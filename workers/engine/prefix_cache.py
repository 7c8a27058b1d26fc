"""Prompts that were read before, kept in memory under a byte budget, so that a shared beginning is read once.

An entry is a run of token ids and the cache after the last of them. A KV cache that can be trimmed serves every
beginning of its ids; a rotating or recurrent one is right only as a whole. Nothing here is ever written to: who uses an
entry gets arrays that grow apart from it. Entries are found by comparing arrays of ids, which takes a millisecond for
a million tokens: no tree to keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workers.engine.caches import Cache, fork, is_plain, nbytes, prefix

SMALLEST = 16  # tokens; less is read faster than it is looked up and kept

Ids = npt.NDArray[np.int32]


@dataclass
class Entry:
    namespace: str
    ids: Ids
    cache: Cache
    bytes: int
    used: int  # by the clock of uses


@dataclass(frozen=True)
class Hit:
    """``cache`` holds the first ``length`` ids; it is the caller's own."""

    cache: Cache
    length: int


class PrefixCache:
    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._entries: list[Entry] = []
        self._uses = 0
        self.bytes = 0
        self._asked = 0
        self._found = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def hit_rate(self) -> float:
        """The share of all prompt tokens that were found here."""
        return self._found / self._asked if self._asked else 0.0

    def find(self, namespace: str, ids: Sequence[int] | Ids) -> Hit | None:
        """The longest known beginning of ``ids``."""
        wanted = np.asarray(ids, dtype=np.int32)
        self._asked += len(wanted)
        best, length = None, SMALLEST - 1
        for entry in self._of(namespace):
            shared = common_prefix(entry.ids, wanted)
            if shared > length and (shared == len(entry.ids) or is_plain(entry.cache)):
                best, length = entry, shared
        if best is None:
            return None
        self._touch(best)
        self._found += length
        whole = length == len(best.ids)
        return Hit(fork(best.cache) if whole else prefix(best.cache, length), length)

    def wants(self, namespace: str, ids: Sequence[int]) -> bool:
        """Whether keeping ``ids`` would serve anything new; if not, what serves them counts as used."""
        wanted = np.asarray(ids, dtype=np.int32)
        if len(wanted) < SMALLEST or self.budget <= 0:
            return False
        for entry in self._of(namespace):
            if self._serves(entry, wanted):
                self._touch(entry)
                return False
        return True

    def keep(self, namespace: str, ids: Sequence[int], cache: Cache) -> None:
        """``cache`` becomes the entry's own. Ask ``wants`` first."""
        wanted = np.asarray(ids, dtype=np.int32)
        size = nbytes(cache)
        if size > self.budget:
            return
        for entry in [e for e in self._of(namespace) if _redundant(e, wanted, cache)]:
            self._remove(entry)
        self._entries.append(Entry(namespace, wanted, cache, size, 0))
        self._touch(self._entries[-1])
        self.bytes += size
        self.shrink(self.budget)

    def shrink(self, size: int) -> None:
        """Forgets what was not used for longest until at most ``size`` bytes are kept."""
        while self.bytes > size and self._entries:
            self._remove(min(self._entries, key=lambda entry: entry.used))

    def _of(self, namespace: str) -> list[Entry]:
        return [entry for entry in self._entries if entry.namespace == namespace]

    def _serves(self, entry: Entry, wanted: Ids) -> bool:
        if len(entry.ids) != len(wanted) and not is_plain(entry.cache):
            return False
        return common_prefix(entry.ids, wanted) == len(wanted)

    def _touch(self, entry: Entry) -> None:
        self._uses += 1
        entry.used = self._uses

    def _remove(self, entry: Entry) -> None:
        self._entries = [other for other in self._entries if other is not entry]
        self.bytes -= entry.bytes


def _redundant(entry: Entry, wanted: Ids, cache: Cache) -> bool:
    """Whether a longer entry with ``cache`` serves all that this one does."""
    return is_plain(cache) and common_prefix(entry.ids, wanted) == len(entry.ids)


def common_prefix(one: Ids, other: Ids) -> int:
    """How many ids at the beginning are the same."""
    size = min(len(one), len(other))
    differ = one[:size] != other[:size]
    return int(differ.argmax()) if differ.any() else size
