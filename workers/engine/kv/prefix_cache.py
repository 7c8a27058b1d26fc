"""The prefix cache: prefilled prompts in memory under a byte budget, so that a shared prefix is prefilled once.

Each namespace has a trie over token ids. Full-attention keys and values are stored per edge, so a shared prefix is
stored once, and every prefix of an entry can be matched. A rotating or recurrent cache is stored whole at the node
where its ids end, and matches only prompts that continue from there. Entries are never written to: a match gives
copies. When bytes are short, the least recently used leaves of the trie are evicted first; whole caches are evicted at
any node.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.engine.kv.mlx_caches import Cache, divide, fork, join, nbytes, set_out
from workers.engine.kv.radix import SMALLEST, Node, Path, drop, grow, walk
from workers.token_ids import Ids, as_ids


@dataclass(frozen=True)
class Hit:
    """``cache`` holds the first ``length`` ids; it is the caller's own."""

    cache: Cache
    length: int


class PrefixCache:
    """``full_attention``: all layers have full attention."""

    def __init__(self, budget: int, *, full_attention: bool) -> None:
        self.budget = budget
        self._full_attention = full_attention
        self._roots: dict[str, Node[Cache]] = {}
        self._uses = 0
        self.entries = 0
        self.bytes = 0
        self.changes = 0  # how often entries were stored or evicted
        self._asked = 0
        self._found = 0

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens that were matched."""
        return self._found / self._asked if self._asked else 0.0

    def matched(self, namespace: str, ids: Sequence[int] | Ids) -> int:
        """How many ids ``find`` would match now; without any effect."""
        _, length = self._usable(self._walk(namespace, ids))
        return length if length >= SMALLEST else 0

    def touch(self, namespace: str, ids: Sequence[int] | Ids) -> None:
        """The entries that ``ids`` match count as used: they are evicted last."""
        self._touch(self._usable(self._walk(namespace, ids))[0])

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
        """The length of the stored prefix; None when all of ``ids`` are stored or nothing should be.

        The matched entries count as used.
        """
        if len(ids) < SMALLEST or self.budget <= 0:
            return None
        nodes, length = self._usable(self._walk(namespace, ids))
        self._touch(nodes)
        if length == len(ids):
            return None
        return length if self._full_attention else 0

    def keep(self, namespace: str, ids: Sequence[int], cache: Cache) -> None:
        """Stores ``cache``, which holds the ``missing`` ids or all of them; do not write to it afterwards."""
        size = nbytes(cache)
        if size > self.budget:
            return
        root = self._roots.setdefault(namespace, Node(as_ids([])))
        node = grow(root, as_ids(ids), cache, self._cut)
        self.bytes += size
        self.entries += 1
        self.changes += 1
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
            self.changes += 1
            drop(oldest)
            self._roots = {namespace: root for namespace, root in self._roots.items() if root.children}

    def _walk(self, namespace: str, ids: Sequence[int] | Ids) -> Path[Cache]:
        root = self._roots.get(namespace)
        return walk(root, as_ids(ids)) if root else Path([], 0, 0)

    def _usable(self, path: Path[Cache]) -> tuple[list[Node[Cache]], int]:
        """The nodes to reuse and their total length: full attention joins all caches, others use the last one."""
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
