"""Finds the best few tokens of each row of logits on an accelerator, without sorting the vocabulary.

mlx has no partial sort there: a partition is a sort of the whole row. The maxima of groups of tokens show which groups
hold the best ones, so only the maxima and the tokens of those groups are sorted. The result is exact: a token outside
of the first ``count`` groups has ``count`` better ones.
"""

import mlx.core as mx

GROUP = 64  # tokens; vocabularies are multiples of it, as a rule
WORTH = 4  # a shortlist is made where it is so many times shorter than the vocabulary


def best_ids(values: mx.array, count: int) -> mx.array:
    """The ids (rows, count) of the highest ``values`` (rows, vocabulary), best first, equal values by id."""
    vocabulary = values.shape[-1]
    if count * GROUP * WORTH > vocabulary:
        return _sorted(values, count)
    grouped = _in_groups(values)
    # In the order of their ids, because the sort behind keeps equal values in order.
    groups = mx.sort(_sorted(mx.max(grouped, axis=-1), count), axis=-1)
    near = mx.take_along_axis(grouped, groups[..., None], axis=1).reshape(-1, count * GROUP)
    ids = (groups[..., None] * GROUP + mx.arange(GROUP, dtype=groups.dtype)).reshape(-1, count * GROUP)
    best = mx.take_along_axis(ids, _sorted(near, count), axis=-1)
    return mx.minimum(best, vocabulary - 1)  # in a row of NaN the padding ranks first


def _sorted(values: mx.array, count: int) -> mx.array:
    """mlx's sort is stable, its partition is not."""
    return mx.argsort(-values, axis=-1)[:, :count]


def _in_groups(values: mx.array) -> mx.array:
    """(rows, groups, ``GROUP``), padded with what ranks last."""
    beyond = -values.shape[-1] % GROUP
    if beyond:
        values = mx.pad(values, [(0, 0), (0, beyond)], constant_values=-mx.inf)
    return values.reshape(values.shape[0], -1, GROUP)
