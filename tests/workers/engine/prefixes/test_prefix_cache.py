"""The prefix cache matches the longest stored prefix and gives the keys and values of exactly its ids."""

import mlx.core as mx
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache

from tests.marks import examples
from workers.engine.kv.footprint import slab_tokens
from workers.engine.kv.kept_prefix import KeptPrefix
from workers.engine.kv.mlx_caches import Cache, nbytes
from workers.engine.prefixes.checkpoints import has_checkpoint
from workers.engine.prefixes.prefix_cache import PrefixCache
from workers.engine.prefixes.radix import SMALLEST, Node, grow, leave, walk
from workers.token_ids import as_ids, common_prefix

BYTES = 2 * 4  # of a token here: one key, one value, each one float32

Sequences = st.lists(st.integers(0, 1), max_size=12)  # of two ids only, so that they have much in common


def full_attention(ids: list[int], start: int) -> Cache:
    """Keys and values that tell which ids they are of."""
    layer = KVCache()
    array = mx.array(ids[start:], dtype=mx.float32).reshape(1, 1, -1, 1)
    layer.state = array, -array, len(ids) - start
    return [layer]


def whole(ids: list[int]) -> Cache:
    layer = RotatingKVCache(max_size=8)
    layer.update_and_fetch(
        *(mx.array([[[[float(id)]] for id in ids]]).reshape(1, 1, -1, 1) for _ in range(2))
    )
    mx.eval(layer.state)
    return [layer]


def mixed(ids: list[int], start: int) -> Cache:
    """A full layer beside a window."""
    return [*full_attention(ids, start), *whole(ids)]


def long(ids: list[int]) -> list[int]:
    """Worth keeping, if it is a sequence at all."""
    return [ids[0]] * SMALLEST + ids if ids else []


def keep(cache: PrefixCache, ids: list[int], namespace: str = "", *, as_whole: bool = False) -> None:
    start = cache.missing(namespace, ids)
    if start is not None:
        cache.keep(namespace, ids, whole(ids) if as_whole else full_attention(ids, start))


def found(cache: PrefixCache, ids: list[int], namespace: str = "") -> int:
    """How many; checks what."""
    hit = cache.find(namespace, ids)
    if hit is None:
        return 0
    (layer,) = hit.cache.copied(len(ids) + 1) if isinstance(hit.cache, KeptPrefix) else hit.cache
    assert layer.offset == hit.length
    if isinstance(layer, KVCache):
        expected = mx.array(ids[: hit.length], dtype=mx.float32)
        assert layer.keys is not None and layer.values is not None
        assert layer.keys.shape[2] == slab_tokens(len(ids) + 1)
        assert mx.array_equal(layer.keys[0, 0, : hit.length, 0], expected)
        assert mx.array_equal(layer.values[0, 0, : hit.length, 0], -expected)
    return hit.length


def shared(one: list[int], other: list[int]) -> int:
    return common_prefix(as_ids(one), as_ids(other))


@examples(200)
@given(st.lists(Sequences, max_size=12), Sequences)
def test_the_prefix_cache_matches_the_longest_stored_prefix(kept: list[list[int]], asked: list[int]) -> None:
    cache = PrefixCache(1 << 20)
    for ids in kept:
        keep(cache, long(ids))
    wanted = long(asked)
    best = max((shared(long(ids), wanted) for ids in kept), default=0)
    assert found(cache, wanted) == (best if best >= SMALLEST else 0)
    assert cache.bytes == BYTES * len(
        {tuple(long(ids)[: n + 1]) for ids in kept for n in range(len(long(ids)))}
    )


@examples(200)
@given(st.lists(Sequences, max_size=12), Sequences)
def test_a_recurrent_cache_entry_matches_only_prompts_that_continue_it(
    kept: list[list[int]], asked: list[int]
) -> None:
    cache = PrefixCache(1 << 20)
    for ids in kept:
        keep(cache, long(ids), as_whole=True)
    wanted = long(asked)
    lengths = [len(long(ids)) for ids in kept if wanted[: len(long(ids))] == long(ids)]
    assert found(cache, wanted) == max(lengths, default=0)
    assert cache.entries == len({tuple(ids) for ids in kept if ids})
    nodes = [node for root in cache._roots.values() for node in root.nodes()]
    assert cache.entries == sum(has_checkpoint(node.held) for node in nodes)


@examples(200)
@given(st.lists(st.tuples(Sequences, st.integers(0, 60)), max_size=12), st.booleans())
def test_the_prefix_cache_stays_within_its_budget_and_counts_its_bytes(
    steps: list[tuple[list[int], int]], as_whole: bool
) -> None:
    cache = PrefixCache(BYTES * 50)
    for ids, tokens in steps:
        keep(cache, long(ids), as_whole=as_whole)
        assert cache.bytes <= cache.budget
        cache.shrink(BYTES * tokens)
        held = [node.held for root in cache._roots.values() for node in root.nodes() if node.held]
        assert cache.bytes == sum(map(nbytes, held)) <= BYTES * tokens
        nodes = [node for root in cache._roots.values() for node in root.nodes()]
        assert all(node.held or (as_whole and node.children) for node in nodes)
    cache.shrink(0)
    assert not cache._roots


@examples(200)
@given(st.lists(Sequences, max_size=12), st.integers(0, 3000), Sequences)
def test_tokens_of_mixed_models_are_stored_once_and_match_at_the_last_checkpoint(
    kept: list[list[int]], size: int, asked: list[int]
) -> None:
    cache = PrefixCache(1 << 20)
    for ids in map(long, kept):
        if (start := cache.missing("", ids)) is not None:
            cache.keep("", ids, mixed(ids, start))
    wanted = long(asked)
    lengths = [len(long(ids)) for ids in kept if ids and wanted[: len(long(ids))] == long(ids)]
    hit = cache.find("", wanted)
    assert (hit.length if hit else 0) == max(lengths, default=0)
    if hit and isinstance(hit.cache, list):
        full, window = hit.cache
        assert full.offset == window.offset == hit.length
        expected = mx.array(wanted[: hit.length], dtype=mx.float32)
        assert mx.array_equal(full.keys[0, 0, : hit.length, 0], expected)
        assert mx.array_equal(window.keys[0, 0, :, 0], expected[-window.keys.shape[2] :])
    tokens = {tuple(long(ids)[: n + 1]) for ids in kept for n in range(len(long(ids)))}
    windows = sum(nbytes(whole(list(ids))) for ids in {tuple(long(ids)) for ids in kept if ids})
    assert cache.bytes == BYTES * len(tokens) + windows

    cache.shrink(size)
    held = [node.held for root in cache._roots.values() for node in root.nodes() if node.held]
    assert cache.bytes == sum(map(nbytes, held)) <= size
    nodes = [node for root in cache._roots.values() for node in root.nodes()]
    assert all(node.children or has_checkpoint(node.held) for node in nodes), (
        "tokens that lead nowhere are gone"
    )
    assert cache.entries == sum(has_checkpoint(node.held) for node in nodes)
    cache.shrink(0)
    assert not cache._roots and not cache.bytes


def two_attentions(ids: list[int], start: int) -> Cache:
    return [CacheList(*full_attention(ids, start), *full_attention(ids, start))]


def test_layers_with_several_attentions_match_wherever_prompts_part() -> None:
    cache, prompts = PrefixCache(1 << 20), [list(range(60)), [*range(40), 99, 98]]
    for ids in prompts:
        start = cache.missing("", ids)
        assert start is not None
        cache.keep("", ids, two_attentions(ids, start))
    assert [cache.matched("", [*ids, 7]) for ids in (*prompts, prompts[0][:40])] == [60, 42, 40]
    assert cache.bytes == 2 * BYTES * 62 and cache.entries == 3
    hit = cache.find("", prompts[1])
    assert hit and isinstance(hit.cache, list)
    assert [part.offset for part in hit.cache[0].caches] == [42, 42]
    cache.shrink(2 * BYTES * 50)
    assert cache.matched("", prompts[1]) == 42 and cache.matched("", prompts[0]) == 40
    cache.shrink(0)
    assert not cache._roots and not cache.bytes and not cache.entries


def test_checkpoints_of_earlier_turns_are_evicted_before_another_chats_last_one() -> None:
    cache, turns = (
        PrefixCache(1 << 20),
        [list(range(length)) for length in (20, 40, 60)],
    )
    other = list(range(100, 140))
    for ids in [*turns, other]:
        start = cache.missing("", ids)
        assert start is not None
        cache.keep("", ids, mixed(ids, start))
    assert cache.find("", [*turns[-1], 99]) is not None
    for left in (3, 2):
        cache.shrink(cache.bytes - 1)
        assert cache.entries == left
    assert [cache.matched("", [*ids, 99]) for ids in (turns[-1], other)] == [60, 40]


def test_the_prefix_cache_evicts_least_recently_used_leaves_and_keeps_shared_prefixes() -> None:
    system, cache = list(range(100, 120)), PrefixCache(BYTES * 30)
    keep(cache, [*system, 1, 2, 3, 4, 5])
    keep(cache, [*system, 6, 7, 8, 9, 10])
    assert cache.bytes == BYTES * 30
    assert found(cache, [*system, 1, 2, 3, 4, 5]) == 25
    keep(cache, [*system, 11])
    assert found(cache, [*system, 6, 7]) == 20
    assert found(cache, [*system, 1, 2, 3, 4, 5]) == 25
    assert found(cache, [*system, 11]) == 21


def test_matching_a_prefix_does_not_count_as_use_of_the_rest_of_the_entry() -> None:
    system, cache = list(range(100, 120)), PrefixCache(BYTES * 1000)
    keep(cache, [*system, 1])
    keep(cache, [*system, 2])
    found(cache, [*system, 1])
    cache.shrink(BYTES * 21)
    assert (found(cache, [*system, 1]), found(cache, [*system, 2])) == (21, 20)


def test_the_prefix_cache_never_matches_across_namespaces() -> None:
    cache = PrefixCache(1 << 20)
    keep(cache, list(range(30)), "a")
    assert (found(cache, list(range(30)), "b"), found(cache, list(range(30)), "a")) == (0, 30)


def test_a_prefix_cache_hit_may_be_written_to() -> None:
    cache, ids = PrefixCache(1 << 20), list(range(40))
    keep(cache, ids)
    for length in (40, 30):
        hit = cache.find("", ids[:length])
        new = mx.full((1, 1, 3, 1), -1.0)
        assert hit and isinstance(hit.cache, KeptPrefix)
        [layer] = hit.cache.copied(length + 3)
        layer.update_and_fetch(new, new)
        mx.eval(layer.state)
        assert found(cache, ids) == 40


def test_a_deep_trie_is_walked_without_recursion() -> None:
    root: Node[str] = Node(as_ids([]))
    node = root
    for _ in range(5000):
        node.children[1] = node = Node(as_ids([1]), parent=node)
    assert sum(1 for _ in root.nodes()) == 5000
    while node.parent is not None:
        node = leave(node)
    assert not root.children


def test_a_trie_edge_is_split_where_two_sequences_diverge() -> None:
    root: Node[str] = Node(as_ids([]))
    grow(root, as_ids([1, 2, 3]), "abc", lambda text, at: (text[:at], text[at:]))
    grow(root, as_ids([1, 2, 4, 5]), "xy", lambda text, at: (text[:at], text[at:]))
    path = walk(root, as_ids([1, 2, 4, 9]))
    assert [node.held for node in path.nodes] == ["ab", "xy"]
    assert (path.length, path.inside) == (3, 1)
    assert [node.held for node in path.whole] == ["ab"]
    for node in reversed(list(root.nodes())):
        leave(node)
    assert not root.children


@examples(100)
@given(st.lists(st.tuples(Sequences, st.booleans()), max_size=12), st.booleans(), st.booleans())
def test_what_is_forgotten_leaves_the_cache_as_if_it_had_never_been_there(
    kept: list[tuple[list[int], bool]], as_whole: bool, everything: bool
) -> None:
    cache, other = (PrefixCache(1 << 20) for _ in range(2))
    for ids, ours in kept:
        keep(cache, long(ids), "ours" if ours else "", as_whole=as_whole)
        if not ours and not everything:
            keep(other, long(ids), as_whole=as_whole)
    before = cache.bytes
    assert cache.forget(None if everything else "ours") == before - cache.bytes
    assert (cache.bytes, cache.entries) == (other.bytes, other.entries)
    for ids, ours in kept:
        gone = ours or everything
        assert found(cache, long(ids), "ours" if ours else "") == (0 if gone else len(long(ids)))
    cache.shrink(0)
    assert (cache.bytes, cache.entries) == (0, 0)


def test_a_namespace_that_nobody_used_has_nothing_to_forget() -> None:
    cache = PrefixCache(1 << 20)
    keep(cache, long([1, 2]))
    changes = cache.changes
    assert cache.forget("another") == 0
    assert cache.changes == changes and found(cache, long([1, 2]))
