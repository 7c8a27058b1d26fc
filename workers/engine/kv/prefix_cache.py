"""The prefix cache: prefilled prompts in memory under a byte budget, so that a shared prefix is prefilled once.

There is a trie over token ids for each namespace. Full-attention keys and values are held by the edges, each for its
own ids: a shared prefix is there once, and every prefix of an entry can be used. A rotating or recurrent cache is right
only as a whole: it is held where its ids end, and serves only prompts that go on from there. Entries are never written
to: a match gives arrays of its own. When bytes are short, the least recently used leaves of the trie go first; whole
caches may go anywhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.engine.kv.mlx_caches import Cache, divide, fork, join, nbytes, set_out
from workers.engine.kv.radix import Node, Path, drop, grow, walk
from workers.token_ids import Ids, as_ids

SMALLEST = 16  # tokens; fewer are prefilled faster than matched and stored


@dataclass(frozen=True)
class Hit:
    """``cache`` holds the first ``length`` ids; it is the caller's own."""

    cache: Cache
    length: int


class PrefixCache:
    """``full_attention``: of all layers."""

    def __init__(self, budget: int, *, full_attention: bool) -> None:
        self.budget = budget
        self._full_attention = full_attention
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
        """Matches the longest prefix of ``ids`` that is stored."""
        self._asked += len(ids)
        nodes, length = self._usable(self._walk(namespace, ids))
        if length < SMALLEST:
            return None
        self._touch(nodes)
        self._found += length
        held = [node.held for node in nodes if node.held is not None]
        return Hit(join(held, length) if self._full_attention else fork(held[-1]), length)

    def missing(self, namespace: str, ids: Sequence[int]) -> int | None:
        """Length of the prefix that is stored already; None when all of ``ids`` are, or none should be.

        The entries found count as used.
        """
        if len(ids) < SMALLEST or self.budget <= 0:
            return None
        nodes, length = self._usable(self._walk(namespace, ids))
        self._touch(nodes)
        if length == len(ids):
            return None
        return length if self._full_attention else 0

    def keep(self, namespace: str, ids: Sequence[int], cache: Cache) -> None:
        """``cache``, of the ids that are ``missing`` or of all, becomes the trie's own: do not write to it."""
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
        """Drops the least recently used entries until at most ``size`` bytes are stored."""
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
        if self._full_attention:
            return path.nodes, path.length
        nodes = list(path.whole)
        while nodes and nodes[-1].held is None:
            nodes.pop()
        return nodes, sum(len(node.ids) for node in nodes)

    def _may_go(self, node: Node[Cache]) -> bool:
        return not (self._full_attention and node.children)

    def _cut(self, cache: Cache, at: int) -> tuple[Cache | None, Cache]:
        if not self._full_attention:
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
