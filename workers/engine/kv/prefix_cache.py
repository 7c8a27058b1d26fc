"""Prompts that were read before, kept in memory under a byte budget, so that a shared beginning is read once.

They are in a trie over token ids, one for each namespace. Plain keys and values are held by the edges, each its own
ids' only: what many conversations begin with is there once, a turn adds what is new in it, and every beginning of what
is kept can be used. A rotating or recurrent cache is right only as a whole: it is held where its ids end, and serves
only who goes on from there. Nothing here is ever written to: who uses it gets arrays of its own.

When bytes are short, what was not used for longest goes: ends of the trie, and whole caches anywhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.engine.kv.mlx_caches import Cache, divide, fork, join, nbytes, set_out
from workers.engine.kv.radix import Node, Path, drop, grow, walk
from workers.token_ids import Ids, as_ids

SMALLEST = 16  # tokens; less is read faster than it is looked up and kept


@dataclass(frozen=True)
class Hit:
    """``cache`` holds the first ``length`` ids; it is the caller's own."""

    cache: Cache
    length: int


class PrefixCache:
    """``plain``: the model's caches are keys and values, token by token, in all layers."""

    def __init__(self, budget: int, *, plain: bool) -> None:
        self.budget = budget
        self._plain = plain
        self._roots: dict[str, Node[Cache]] = {}
        self._uses = 0
        self.entries = 0
        self.bytes = 0
        self._asked = 0
        self._found = 0

    @property
    def hit_rate(self) -> float:
        """The share of all prompt tokens that were found here."""
        return self._found / self._asked if self._asked else 0.0

    def find(self, namespace: str, ids: Sequence[int] | Ids) -> Hit | None:
        """The longest known beginning of ``ids``."""
        self._asked += len(ids)
        nodes, length = self._usable(self._walk(namespace, ids))
        if length < SMALLEST:
            return None
        self._touch(nodes)
        self._found += length
        held = [node.held for node in nodes if node.held is not None]
        return Hit(join(held, length) if self._plain else fork(held[-1]), length)

    def missing(self, namespace: str, ids: Sequence[int]) -> int | None:
        """How many ids at the beginning need not be kept as they are; None when nothing of them needs to.

        What there is counts as used.
        """
        if len(ids) < SMALLEST or self.budget <= 0:
            return None
        nodes, length = self._usable(self._walk(namespace, ids))
        self._touch(nodes)
        if length == len(ids):
            return None
        return length if self._plain else 0

    def keep(self, namespace: str, ids: Sequence[int], cache: Cache) -> None:
        """``cache``, of the ids that are ``missing`` or of all, becomes the trie's own."""
        size = nbytes(cache)
        if size > self.budget:
            return
        root = self._roots.setdefault(namespace, Node(as_ids([])))
        node = grow(root, as_ids(ids), cache, self._cut)
        self.bytes += size
        self.entries += 1
        self._touch(self._walk(namespace, ids).nodes)
        assert node.held is cache
        self.shrink(self.budget)

    def shrink(self, size: int) -> None:
        """Forgets what was not used for longest until at most ``size`` bytes are kept."""
        while self.bytes > size and (ends := [node for node in self._holding() if self._may_go(node)]):
            oldest = min(ends, key=lambda node: node.used)
            assert oldest.held is not None
            self.bytes -= nbytes(oldest.held)
            self.entries -= 1
            drop(oldest)
            self._roots = {namespace: root for namespace, root in self._roots.items() if root.children}

    def _walk(self, namespace: str, ids: Sequence[int] | Ids) -> Path[Cache]:
        root = self._roots.get(namespace)
        return walk(root, as_ids(ids)) if root else Path([], 0, 0)

    def _usable(self, path: Path[Cache]) -> tuple[list[Node[Cache]], int]:
        """Nodes whose caches together, or the last of which, serve so many ids."""
        if self._plain:
            return path.nodes, path.length
        nodes = list(path.whole)
        while nodes and nodes[-1].held is None:
            nodes.pop()
        return nodes, sum(len(node.ids) for node in nodes)

    def _may_go(self, node: Node[Cache]) -> bool:
        return not (self._plain and node.children)

    def _cut(self, cache: Cache, at: int) -> tuple[Cache | None, Cache]:
        if not self._plain:
            return None, cache
        first, rest = divide(cache, at)
        set_out([*first, *rest])
        self.entries += 1
        return first, rest

    def _touch(self, nodes: list[Node[Cache]]) -> None:
        self._uses += 1
        for node in nodes:
            node.used = self._uses

    def _holding(self) -> Iterator[Node[Cache]]:
        return (node for root in self._roots.values() for node in root.nodes() if node.held is not None)
