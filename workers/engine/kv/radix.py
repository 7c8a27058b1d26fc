"""A radix trie over token ids: what sequences begin with alike is there once.

Each edge is a run of ids, and a node holds what belongs to the edge that leads to it. Pure: what is held may be
anything that ``cut`` divides.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from workers.token_ids import Ids, common_prefix

Held = TypeVar("Held")
Cut = Callable[
    [Held, int], tuple[Held | None, Held]
]  # what belongs to the first so many ids, and to the others


@dataclass(eq=False)
class Node(Generic[Held]):
    ids: Ids  # of the edge that leads here; none lead to a root
    held: Held | None = None
    parent: "Node[Held] | None" = None
    children: "dict[int, Node[Held]]" = field(default_factory=dict)  # by the first id of their edges
    used: int = 0  # by the clock of uses

    def nodes(self) -> "Iterator[Node[Held]]":
        """All below this one; a long conversation makes a deep trie."""
        below = list(self.children.values())
        while below:
            node = below.pop()
            yield node
            below += node.children.values()


@dataclass(frozen=True)
class Path(Generic[Held]):
    """The way of a sequence from a root, as far as it is known.

    ``nodes`` without the root; of the last one's edge only ``inside`` ids may be the sequence's.
    """

    nodes: list[Node[Held]]
    length: int
    inside: int

    @property
    def whole(self) -> list[Node[Held]]:
        """The nodes all of whose ids are the sequence's."""
        return self.nodes if not self.nodes or self.inside == len(self.nodes[-1].ids) else self.nodes[:-1]


def walk(root: Node[Held], ids: Ids) -> Path[Held]:
    nodes, length, inside, node = [], 0, 0, root
    while length < len(ids) and (child := node.children.get(int(ids[length]))) is not None:
        inside = common_prefix(child.ids, ids[length:])
        length += inside
        nodes.append(child)
        if inside < len(child.ids):
            break
        node = child
    return Path(nodes, length, inside)


def grow(root: Node[Held], ids: Ids, held: Held, cut: Cut[Held]) -> Node[Held]:
    """The node at the end of ``ids``; ``held`` belongs to what of them is new, or to the last edge if nothing is.

    An edge that only begins as the sequence goes on is cut in two.
    """
    path = walk(root, ids)
    above = path.nodes[-1] if path.nodes else root
    if path.nodes and path.inside < len(above.ids):
        above = _split(above, path.inside, cut)
    if path.length == len(ids):
        above.held = held
        return above
    node = Node(ids[path.length :], held, above)
    above.children[int(node.ids[0])] = node
    return node


def drop(node: Node[Held]) -> None:
    """What it holds, and itself and those above it that neither hold anything nor lead anywhere."""
    node.held = None
    while node.parent is not None and not node.children and node.held is None:
        del node.parent.children[int(node.ids[0])]
        node = node.parent


def _split(node: Node[Held], at: int, cut: Cut[Held]) -> Node[Held]:
    """A new node in the middle of the edge to ``node``."""
    assert node.parent is not None
    first, rest = (None, None) if node.held is None else cut(node.held, at)
    middle = Node(node.ids[:at], first, node.parent, {int(node.ids[at]): node}, node.used)
    node.parent.children[int(node.ids[0])] = middle
    node.ids, node.held, node.parent = node.ids[at:], rest, middle
    return middle
