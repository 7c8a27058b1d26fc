"""Translates the sampling and stopping parameters that every dialect has. Pure."""

import secrets

from api.generation.refusals import wrong
from api.generation.schemas import Sampled
from shared.protocol import MODELS_OWN, Sampling, Stopping


def sampling(request: Sampled, temperature: float, top_p: float) -> Sampling:
    return Sampling(
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        temperature=temperature,
        top_p=top_p,
        top_k=max(request.top_k, 0),
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias={int(id): bias for id, bias in request.logit_bias.items()},
        unsaid=[name for name in MODELS_OWN if name not in request.model_fields_set],
    )


def stopping(request: Sampled, max_tokens: int | None, stop: list[str] | None = None) -> Stopping:
    """``stop``: more stop strings. Raises InvalidRequest."""
    if max_tokens is not None and request.min_tokens > max_tokens:
        raise wrong("min_tokens", f"it must not be larger than max_tokens ({max_tokens})")
    return Stopping(
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        stop=[*(stop or ()), *request.stop_strings],
        stop_token_ids=request.stop_token_ids,
        ignore_eos=request.ignore_eos,
    )
