"""The entry of a token and its log probability, which all dialects share. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

from shared.protocol import Alternative, TokenLogprob

IMPOSSIBLE = -9999.0  # stands for minus infinity, which JSON cannot say


def text_of(token: Alternative) -> str:
    """Its bytes as text; a part of a character becomes U+FFFD."""
    return token.bytes.decode("utf-8", "replace")


def finite(token: Alternative) -> float:
    return max(token.logprob, IMPOSSIBLE)


def entries(tokens: Sequence[TokenLogprob], part: str | None = None) -> Iterator[dict[str, Any]]:
    """``{token, logprob, bytes, top_logprobs}`` of each token of one part of the answer; None is the content."""
    for token in tokens:
        if token.part == part:
            yield {**_entry(token), "top_logprobs": [_entry(other) for other in token.top]}


def _entry(token: Alternative) -> dict[str, Any]:
    return {"token": text_of(token), "logprob": finite(token), "bytes": list(token.bytes)}
