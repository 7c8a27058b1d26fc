"""What the prefix cache stores of a sequence: tokens by edge, and checkpoints at nodes.

Keys and values of full layers are divided and joined like those of any model, so a prefix that entries share is stored
once. A window or a state serves only the length at which it was taken: it is the checkpoint of the node where its ids
end. An entry lists the caches of all layers, flat: a full layer's holds the tokens of its edge, the others are None
where there is no checkpoint.
"""

from collections.abc import Sequence
from typing import Any

from mlx_lm.models.cache import CacheList, KVCache

from workers.engine.kv.kept_prefix import KeptPrefix, joined_layers
from workers.engine.kv.mlx_caches import Cache, divide, fork, parts_of

Layout = tuple[int, ...]  # by layer: the number of its caches; 0 for one that is not in a list


def flat(cache: Cache) -> tuple[Cache, Layout]:
    layout = tuple(len(layer.caches) if isinstance(layer, CacheList) else 0 for layer in cache)
    return parts_of(cache), layout


def has_checkpoint(entry: Cache | None) -> bool:
    """Whether a sequence can go on from its end; always so if all caches hold keys and values of all tokens."""
    return entry is not None and all(part is not None for part in entry)


def can_be_cut(entry: Cache | None) -> bool:
    """Whether a sequence can go on behind each of its tokens, not only behind the last."""
    return entry is not None and all(type(part) is KVCache for part in entry)


def without_checkpoint(entry: Cache) -> Cache | None:
    """Its tokens; None if no layer has full attention."""
    tokens = [part if type(part) is KVCache else None for part in entry]
    return tokens if any(part is not None for part in tokens) else None


def with_checkpoint(tokens: Cache, new: Cache) -> Cache:
    """The tokens of one entry with the checkpoint of another."""
    return [part if type(part) is KVCache else other for part, other in zip(tokens, new, strict=True)]


def cut(entry: Cache, at: int) -> tuple[Cache | None, Cache]:
    """Divided behind ``at`` tokens; the checkpoint stays with the second part."""
    if without_checkpoint(entry) is None:
        return None, entry
    pairs = [_cut(part, at) for part in entry]
    return [first for first, _ in pairs], [rest for _, rest in pairs]


def _cut(part: Any, at: int) -> tuple[Any, Any]:
    if type(part) is not KVCache:
        return None, part
    [first], [rest] = divide([part], at)
    return first, rest


def restored(entries: Sequence[Cache], layout: Layout, length: int, tokens: int) -> Cache | KeptPrefix:
    """A cache of ``length`` tokens and room for ``tokens``: the tokens of all entries, the checkpoint of the last.

    With full attention in all layers the entries themselves, which are copied once, when they are read.
    """
    if can_be_cut(entries[-1]) and not any(layout):
        return KeptPrefix(entries, length)
    parts = [
        joined_layers([entry[number] for entry in entries], length, tokens)
        if type(part) is KVCache
        else fork([part])[0]
        for number, part in enumerate(entries[-1])
    ]
    caches = iter(parts)
    return [CacheList(*(next(caches) for _ in range(own))) if own else next(caches) for own in layout]
