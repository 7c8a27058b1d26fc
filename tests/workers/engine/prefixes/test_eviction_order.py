"""The prefix cache evicts what a search through all its nodes would have chosen, without that search."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.marks import examples
from tests.workers.engine.prefixes.test_prefix_cache import (
    BYTES,
    Sequences,
    full_attention,
    long,
    mixed,
    two_attentions,
    whole,
)
from workers.engine.kv.mlx_caches import Cache
from workers.engine.prefixes.eviction_order import SPARE, EvictionOrder
from workers.engine.prefixes.prefix_cache import PrefixCache
from workers.engine.prefixes.radix import Node
from workers.token_ids import as_ids

KINDS: dict[str, Callable[[list[int], int], Cache]] = {
    "full": full_attention,
    "window": lambda ids, start: whole(ids),
    "mixed": mixed,
    "two attentions": two_attentions,
}


class Searched(EvictionOrder[Cache]):
    """Looks at every node, each time."""

    def __init__(self, cache: PrefixCache) -> None:
        super().__init__(cache._may_go)
        self._cache = cache

    def next(self) -> Node[Cache] | None:
        nodes = (node for root in self._cache._roots.values() for node in root.nodes())
        return min(filter(self._may_go, nodes), key=lambda node: node.used, default=None)


def stored(cache: PrefixCache) -> list[tuple[str, list[int], int, bool]]:
    return [
        (namespace, [int(id) for id in node.ids], node.used, cache._may_go(node))
        for namespace, root in cache._roots.items()
        for node in root.nodes()
    ]


steps = st.one_of(
    st.tuples(st.just("keep"), Sequences, st.sampled_from("ab")),
    st.tuples(st.just("find"), Sequences, st.sampled_from("ab")),
    st.tuples(st.just("shrink"), st.integers(0, 60), st.just("")),
)


@pytest.mark.parametrize("kind", KINDS)
@examples(100)
@given(st.lists(steps, max_size=25))
def test_what_is_evicted_is_what_a_search_through_all_nodes_would_find(
    kind: str, played: list[tuple[str, list[int] | int, str]]
) -> None:
    quick, plain = (PrefixCache(1 << 20) for _ in range(2))
    plain._order = Searched(plain)
    for what, value, namespace in played:
        for cache in (quick, plain):
            match what, value:
                case "keep", list(ids):
                    if (start := cache.missing(namespace, long(ids))) is not None:
                        cache.keep(namespace, long(ids), KINDS[kind](long(ids), start))
                case "find", list(ids):
                    cache.find(namespace, long(ids))
                case "shrink", int(tokens):
                    cache.shrink(BYTES * tokens)
        assert stored(quick) == stored(plain)
        assert (quick.bytes, quick.entries, quick.changes) == (plain.bytes, plain.entries, plain.changes)
        assert len(quick._order) <= 2 * quick.entries + SPARE + 1


def leaves(count: int) -> list[Node[str]]:
    return [Node(as_ids([number]), "held", used=number) for number in range(count)]


def is_held(node: Node[str]) -> bool:
    return node.held is not None


@pytest.mark.parametrize("count", [100, 10_000])
def test_an_eviction_looks_at_one_node_however_many_there_are(count: int) -> None:
    order: EvictionOrder[str] = EvictionOrder(is_held)
    for node in leaves(count):
        order.offer(node, count)
    evicted = [order.next() for _ in range(10)]
    assert [node and node.used for node in evicted] == [*range(10)]
    assert order.visits == 10


@pytest.mark.parametrize("count", [100, 3_000])
def test_uses_and_evictions_together_look_at_a_few_nodes_each(count: int) -> None:
    order, nodes, rng = EvictionOrder(is_held), leaves(count), Random(1)
    for node in nodes:
        order.offer(node, count)
    for turn in range(10 * count):
        node = rng.choice(nodes)
        node.used = count + turn
        order.offer(node, count)
        assert len(order) <= 2 * count + SPARE
    evicted = []
    while (gone := order.next()) is not None:
        gone.held = None
        evicted.append(gone.used)
    assert evicted == sorted(node.used for node in nodes)
    assert order.visits <= 4 * 11 * count
