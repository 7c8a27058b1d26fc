"""The prefix cache: prefilled prompts in memory under a byte budget, so that a shared prefix is prefilled once.

Each namespace has a trie over token ids. Full-attention keys and values are stored per edge, so a shared prefix is
stored once. With full attention in all layers, every prefix of an entry can be matched; with windows or states, those
that end at a checkpoint. What is of which kind is known to ``checkpoints`` alone. Entries are never written to. When
bytes are short, the least recently used leaves of the trie are evicted first, or checkpoints at any node, with the
tokens that then lead to none: see ``eviction_order``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from workers.engine.kv.kept_prefix import KeptPrefix
from workers.engine.kv.mlx_caches import Cache, nbytes, set_out
from workers.engine.prefixes import checkpoints
from workers.engine.prefixes.checkpoints import can_be_cut, has_checkpoint
from workers.engine.prefixes.eviction_order import EvictionOrder
from workers.engine.prefixes.radix import SMALLEST, Node, Path, grow, leave, walk
from workers.token_ids import Ids, as_ids


@dataclass(frozen=True)
class Hit:
    """``cache`` holds the first ``length`` ids; it is the caller's own, or nobody writes to it."""

    cache: Cache | KeptPrefix
    length: int


class PrefixCache:
    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._roots: dict[str, Node[Cache]] = {}
        self._namespaces: dict[Node[Cache], str] = {}  # by root
        self._order: EvictionOrder[Cache] = EvictionOrder(self._may_go)
        self._layout: checkpoints.Layout = ()
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
        prompt = len(ids) + 1  # its last id is not asked for
        return Hit(checkpoints.restored(held, self._layout, length, prompt), length)

    def missing(self, namespace: str, ids: Sequence[int]) -> int | None:
        """How many of the tokens are stored; None when all of ``ids`` are stored or nothing should be.

        The matched entries count as used.
        """
        if len(ids) < SMALLEST or self.budget <= 0:
            return None
        path = self._walk(namespace, ids)
        nodes, length = self._usable(path)
        self._touch(nodes)
        return None if length == len(ids) else path.length

    def keep(self, namespace: str, ids: Sequence[int], cache: Cache) -> None:
        """Stores ``cache``, whose full layers hold the ``missing`` ids; do not write to it afterwards."""
        size = nbytes(cache)
        if size > self.budget:
            return
        cache, self._layout = checkpoints.flat(cache)
        grow(self._root(namespace), as_ids(ids), cache, self._cut, checkpoints.with_checkpoint)
        self.bytes += size
        self.entries += 1
        self.changes += 1
        self._touch(self._walk(namespace, ids).nodes)
        self.shrink(self.budget)

    def forget(self, namespace: str | None) -> int:
        """Drops what is stored of a namespace, or of all; gives the bytes."""
        roots = list(self._namespaces) if namespace is None else [self._roots.get(namespace)]
        before = self.bytes
        for root in roots:
            if root is not None:
                self._drop_all(root)
        return before - self.bytes

    def _drop_all(self, root: Node[Cache]) -> None:
        del self._roots[self._namespaces.pop(root)]
        for node in root.nodes():
            self.bytes -= nbytes(node.held or [])
            self.entries -= has_checkpoint(node.held)
            node.held = None  # what is left of it in the order of eviction may not go any more
        self.changes += 1

    def shrink(self, size: int) -> None:
        """Drops the least recently used entries until at most ``size`` bytes are stored."""
        while self.bytes > size and (node := self._order.next()):
            left = self._evict(node)
            self.entries -= 1
            self.changes += 1
            if left.parent is not None:
                self._order.offer(left, self.entries)
            elif not left.children:
                del self._roots[self._namespaces.pop(left)]

    def _evict(self, node: Node[Cache]) -> Node[Cache]:
        """Gives the node that is left at the end of what was dropped."""
        assert node.held is not None
        self.bytes -= nbytes(node.held)
        node.held = checkpoints.without_checkpoint(node.held) if node.children else None
        self.bytes += nbytes(node.held or [])
        while node.parent is not None and not node.children and not has_checkpoint(node.held):
            self.bytes -= nbytes(node.held or [])
            node = leave(node)
        return node

    def _root(self, namespace: str) -> Node[Cache]:
        if namespace not in self._roots:
            root = self._roots[namespace] = Node(as_ids([]))
            self._namespaces[root] = namespace
        return self._roots[namespace]

    def _walk(self, namespace: str, ids: Sequence[int] | Ids) -> Path[Cache]:
        root = self._roots.get(namespace)
        return walk(root, as_ids(ids)) if root else Path([], 0, 0)

    def _usable(self, path: Path[Cache]) -> tuple[list[Node[Cache]], int]:
        """The nodes to reuse and their total length: all that match, or those up to the last checkpoint."""
        if path.nodes and can_be_cut(path.nodes[-1].held):
            return path.nodes, path.length
        nodes = list(path.whole)
        while nodes and not has_checkpoint(nodes[-1].held):
            nodes.pop()
        return nodes, sum(len(node.ids) for node in nodes)

    def _may_go(self, node: Node[Cache]) -> bool:
        """Tokens that others continue stay; a checkpoint may go anywhere."""
        return has_checkpoint(node.held) and not (node.children and can_be_cut(node.held))

    def _cut(self, cache: Cache, at: int) -> tuple[Cache | None, Cache]:
        first, rest = checkpoints.cut(cache, at)
        set_out([*(first or []), *rest])
        self.entries += has_checkpoint(first)
        return first, rest

    def _touch(self, nodes: list[Node[Cache]]) -> None:
        """A checkpoint is used by itself: those before it serve other prompts."""
        self._uses += 1
        for node in nodes:
            if node is nodes[-1] or can_be_cut(node.held):
                node.used = self._uses
        if nodes:
            self._order.offer(nodes[-1], self.entries)
