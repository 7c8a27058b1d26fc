"""What changes a row's logits before sampling: penalties, bias, and no end before min_tokens.

The counts live on the device and are fed with tokens that are not computed yet, so a row with penalties does not make
its batch wait.
"""

from collections.abc import Iterable, Sequence

import mlx.core as mx

from shared.protocol import Generation

_NEVER = -1e9  # a logit no real one comes near, finite so that no sum becomes NaN


class Adjustment:
    """One row's. The presence and frequency penalties count generated tokens, the repetition penalty the prompt too."""

    def __init__(
        self,
        generation: Generation,
        prompt: Sequence[int],
        held: Sequence[int],
        eos: Iterable[int],
        vocabulary: int,
    ) -> None:
        self._sampling = generation.sampling
        self._min_tokens = generation.stopping.min_tokens
        self._vocabulary = vocabulary
        self._prompt = _flags(prompt if self._sampling.repetition_penalty != 1 else [], vocabulary)
        self._generated = mx.zeros((vocabulary,), dtype=mx.float32)
        self._bias = _bias(self._sampling.logit_bias, vocabulary)
        self._eos = _flags(eos, vocabulary)
        if held:
            self.count(mx.array(list(held), dtype=mx.uint32))

    def count(self, tokens: mx.array) -> None:
        """``tokens``: (n,), maybe not computed yet."""
        self._generated = self._generated.at[tokens].add(1.0)

    def apply(self, logits: mx.array, index: int) -> mx.array:
        """``logits`` (vocabulary,) of the token at ``index``."""
        s = self._sampling
        if s.repetition_penalty != 1:
            seen = self._prompt | (self._generated > 0)
            divided = mx.where(logits > 0, logits / s.repetition_penalty, logits * s.repetition_penalty)
            logits = mx.where(seen, divided, logits)
        if s.frequency_penalty:
            logits = logits - s.frequency_penalty * self._generated
        if s.presence_penalty:
            logits = logits - s.presence_penalty * (self._generated > 0)
        if s.logit_bias:
            logits = logits + self._bias
        if index < self._min_tokens:
            logits = mx.where(self._eos, _NEVER, logits)
        return logits


def adjustment_for(
    generation: Generation, prompt: Sequence[int], held: Sequence[int], eos: Iterable[int], vocabulary: int
) -> Adjustment | None:
    """None for a row whose logits are taken as they are."""
    s = generation.sampling
    asks = s.logit_bias or s.presence_penalty or s.frequency_penalty or s.repetition_penalty != 1
    if not asks and not generation.stopping.min_tokens:
        return None
    return Adjustment(generation, prompt, held, eos, vocabulary)


def _flags(ids: Iterable[int], vocabulary: int) -> mx.array:
    flags = mx.zeros((vocabulary,), dtype=mx.bool_)
    if inside := sorted({id for id in ids if id < vocabulary}):
        flags[mx.array(inside)] = True
    return flags


def _bias(entries: dict[int, float], vocabulary: int) -> mx.array:
    bias = mx.zeros((vocabulary,), dtype=mx.float32)
    if inside := {id: value for id, value in entries.items() if 0 <= id < vocabulary}:
        bias[mx.array(list(inside))] = mx.array(list(inside.values()))
    return bias
