"""A radix trie over token ids, which stores a shared prefix once. Pure.

Each edge is a run of ids, and a node holds the value of the edge that leads to it. A value is anything that ``cut``
divides.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from workers.token_ids import Ids, common_prefix

SMALLEST = 16  # tokens; fewer are prefilled faster than matched and stored

Held = TypeVar("Held")
Cut = Callable[
    [Held, int], tuple[Held | None, Held]
]  # value, number of ids -> the value of the first ids, the value of the rest


@dataclass(eq=False)
class Node(Generic[Held]):
    ids: Ids  # of the edge that leads here; empty at a root
    held: Held | None = None
    parent: "Node[Held] | None" = None
    children: "dict[int, Node[Held]]" = field(default_factory=dict)  # by the first id of their edges
    used: int = 0  # the number of the last use

    def nodes(self) -> "Iterator[Node[Held]]":
        """All nodes below this one, without recursion, because a long conversation makes a deep trie."""
        below = list(self.children.values())
        while below:
            node = below.pop()
            yield node
            below += node.children.values()


@dataclass(frozen=True)
class Path(Generic[Held]):
    """The nodes that a sequence matches, from below the root.

    ``length``: matched ids. ``inside``: how many of them are on the last node's edge, which may be longer.
    """

    nodes: list[Node[Held]]
    length: int
    inside: int

    @property
    def whole(self) -> list[Node[Held]]:
        """The nodes whose edges match completely."""
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


def grow(
    root: Node[Held], ids: Ids, held: Held, cut: Cut[Held], add: Callable[[Held, Held], Held] | None = None
) -> Node[Held]:
    """Adds ``ids`` and gives their last node; ``held`` is the value of the new ids, or of the last edge if none is new.

    An edge that matches only in part is split. ``add`` gives the value of an edge that has one already.
    """
    path = walk(root, ids)
    above = path.nodes[-1] if path.nodes else root
    if path.nodes and path.inside < len(above.ids):
        above = _split(above, path.inside, cut)
    if path.length == len(ids):
        above.held = add(above.held, held) if add and above.held is not None else held
        return above
    node = Node(ids[path.length :], held, above)
    above.children[int(node.ids[0])] = node
    return node


def leave(node: Node[Held]) -> Node[Held]:
    """Takes a node without children out of the trie and gives the one above it."""
    assert node.parent is not None
    del node.parent.children[int(node.ids[0])]
    return node.parent


def _split(node: Node[Held], at: int, cut: Cut[Held]) -> Node[Held]:
    """Splits the edge to ``node`` and gives the new node in the middle."""
    assert node.parent is not None
    first, rest = (None, None) if node.held is None else cut(node.held, at)
    middle = Node(node.ids[:at], first, node.parent, {int(node.ids[at]): node}, node.used)
    node.parent.children[int(node.ids[0])] = middle
    node.ids, node.held, node.parent = node.ids[at:], rest, middle
    return middle
