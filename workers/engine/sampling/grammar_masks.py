"""What the guides allow, as one array for the sampler; computed on the host while the forward pass runs."""

from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from workers.grammars.grammar import Guide


def allowed(guides: Iterable[tuple[int, Guide]], rows: int, vocabulary: int) -> mx.array:
    """Shape (rows, vocabulary), bool; a row without a guide is allowed everything."""
    flags = np.ones((rows, vocabulary), dtype=np.bool_)
    for row, guide in guides:
        flags[row] = np.unpackbits(guide.mask(), count=vocabulary, bitorder="little")
    return mx.array(flags)
