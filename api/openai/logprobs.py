"""Token log probabilities in the two shapes of the OpenAI dialect. Pure."""

from codecs import getincrementaldecoder
from collections.abc import Sequence

from api.openai.schemas import ChatLogprob, ChatLogprobs, CompletionLogprobs, TopLogprob
from shared.protocol import Alternative, Start, TokenLogprob

IMPOSSIBLE = -9999.0  # stands for minus infinity, which JSON cannot say

_Utf8Decoder = getincrementaldecoder("utf-8")


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Of the content's tokens, and those of the thinking apart; those of calls have no place in the dialect."""
    thinking = [_chat_logprob(token) for token in tokens if token.part == "thinking"]
    return ChatLogprobs(
        content=[_chat_logprob(token) for token in tokens if token.part is None],
        reasoning_content=thinking or None,
    )


def _chat_logprob(token: TokenLogprob) -> ChatLogprob:
    return ChatLogprob(
        token=_text(token),
        logprob=_finite(token),
        bytes=list(token.bytes),
        top_logprobs=[
            TopLogprob(token=_text(other), logprob=_finite(other), bytes=list(other.bytes))
            for other in token.top
        ],
    )


class CompletionScores:
    """The four arrays of one choice; ``text_offset`` goes on from one call to the next."""

    def __init__(self) -> None:
        self._decoder = _Utf8Decoder("replace")
        self._offset = 0

    def next(self, tokens: Sequence[TokenLogprob], start: Start | None = None) -> CompletionLogprobs:
        """``start`` brings the echoed prompt, whose first token has nothing before it that could predict it."""
        unscored, scored = _echoed(start)
        scored += tokens
        pieces = unscored + [token.bytes for token in scored]
        return CompletionLogprobs(
            tokens=[piece.decode("utf-8", "replace") for piece in pieces],
            token_logprobs=[*(None for _ in unscored), *map(_finite, scored)],
            top_logprobs=[*(None for _ in unscored), *map(_best_and_chosen, scored)],
            text_offset=[self._pass(piece) for piece in pieces],
        )

    def _pass(self, piece: bytes) -> int:
        """Where the piece begins."""
        offset = self._offset
        self._offset += len(self._decoder.decode(piece))
        return offset


def _echoed(start: Start | None) -> tuple[list[bytes], list[TokenLogprob]]:
    """The prompt's first token, of which only the text before the others is known, and the others."""
    if start is None or start.prompt_logprobs is None:
        return [], []
    text = (start.prompt_text or "").encode()
    behind = b"".join(token.bytes for token in start.prompt_logprobs)
    first = text.removesuffix(behind) if text.endswith(behind) else b""
    return [first], list(start.prompt_logprobs)


def _best_and_chosen(token: TokenLogprob) -> dict[str, float]:
    """The chosen token is always there, with the very number it has in ``token_logprobs``.

    Where another token reads the same, that one goes by its id: whether the chosen one was the best must show.
    """
    best: dict[str, float] = {}
    for other in token.top:
        same = other.id == token.id
        taken = _text(other) in best or (not same and _text(other) == _text(token))
        if not same:
            best[f"token_id:{other.id}" if taken else _text(other)] = _finite(other)
    return {**best, _text(token): _finite(token)}


def _text(token: Alternative) -> str:
    return token.bytes.decode("utf-8", "replace")


def _finite(token: Alternative) -> float:
    return max(token.logprob, IMPOSSIBLE)
