"""Token log probabilities in the two shapes of the OpenAI dialect. Pure."""

from codecs import getincrementaldecoder
from collections.abc import Sequence

from shared.openai import ChatLogprob, ChatLogprobs, CompletionLogprobs, TopLogprob
from shared.protocol import Alternative, TokenLogprob

IMPOSSIBLE = -9999.0  # stands for minus infinity, which JSON cannot say

_Utf8Decoder = getincrementaldecoder("utf-8")


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    return ChatLogprobs(
        content=[
            ChatLogprob(
                token=_text(token),
                logprob=_finite(token),
                bytes=list(token.bytes),
                top_logprobs=[
                    TopLogprob(token=_text(other), logprob=_finite(other), bytes=list(other.bytes))
                    for other in token.top
                ],
            )
            for token in tokens
        ]
    )


class CompletionScores:
    """The four arrays of one choice; ``text_offset`` goes on from one call to the next."""

    def __init__(self) -> None:
        self._decoder = _Utf8Decoder("replace")
        self._offset = 0

    def next(self, tokens: Sequence[TokenLogprob]) -> CompletionLogprobs:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.bytes))
        return CompletionLogprobs(
            tokens=[_text(token) for token in tokens],
            token_logprobs=[_finite(token) for token in tokens],
            top_logprobs=[_best_and_chosen(token) for token in tokens],
            text_offset=offsets,
        )


def _best_and_chosen(token: TokenLogprob) -> dict[str, float]:
    """The chosen token is always there, with the very number it has in ``token_logprobs``."""
    best = {_text(other): _finite(other) for other in reversed(token.top)}
    return {**dict(reversed(best.items())), _text(token): _finite(token)}


def _text(token: Alternative) -> str:
    return token.bytes.decode("utf-8", "replace")


def _finite(token: Alternative) -> float:
    return max(token.logprob, IMPOSSIBLE)
