"""What an encoder gives for texts: a vector each, or a score each."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
from mlx.nn.layers.linear import Linear

from workers.encoders.models.activations import Activation
from workers.encoders.models.packed import Group
from workers.encoders.models.part import EncoderPart
from workers.encoders.models.pooling import Pooling, normalised

Body = Callable[[Sequence[Group]], list[mx.array]]
"""Groups -> the last hidden states of each, (texts, longest, hidden)."""

Head = Callable[[mx.array, tuple[int, ...]], mx.array]
"""Hidden states and lengths -> log-odds, (texts,)."""

Results = list[np.ndarray]
"""One float32 array per group: vectors (texts, dimensions) or scores (texts, 1)."""


class Dense(EncoderPart):
    """sentence-transformers' module of that name: a linear layer and a nonlinear function behind it."""

    def __init__(self, inputs: int, outputs: int, bias: bool, activation: Activation) -> None:
        super().__init__()
        self.linear = Linear(inputs, outputs, bias=bias)
        self._activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        return self._activation(self.linear(x))


class Embedder:
    def __init__(
        self, body: Body, pooling: Pooling, denses: Sequence[Dense] = (), *, normalises: bool
    ) -> None:
        self._body = body
        self._pooling = pooling
        self._denses = denses
        self._normalises = normalises

    def __call__(self, groups: Sequence[Group], skipped: Sequence[Sequence[int]]) -> Results:
        """``skipped``: by group and text, how many first tokens are not pooled."""
        hidden = self._body(groups)
        vectors = [
            self._pooled(states, group, few)
            for states, group, few in zip(hidden, groups, skipped, strict=True)
        ]
        mx.eval(vectors)
        return [np.array(each) for each in vectors]

    def _pooled(self, hidden: mx.array, group: Group, skipped: Sequence[int]) -> mx.array:
        vectors = self._pooling(hidden.astype(mx.float32), group.lengths, skipped)
        for dense in self._denses:
            vectors = dense(vectors)
        return normalised(vectors) if self._normalises else vectors


class Scorer:
    def __init__(self, body: Body, head: Head) -> None:
        self._body = body
        self._head = head

    def __call__(self, groups: Sequence[Group], skipped: Sequence[Sequence[int]]) -> Results:
        """Scores from 0 to 1 for each group."""
        hidden = self._body(groups)
        odds = [self._head(states, group.lengths) for states, group in zip(hidden, groups, strict=True)]
        scores = [mx.sigmoid(each.astype(mx.float32))[:, None] for each in odds]
        mx.eval(scores)
        return [np.array(each) for each in scores]


Compute = Embedder | Scorer
