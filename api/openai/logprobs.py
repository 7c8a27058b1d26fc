"""Token log probabilities in the two shapes of the OpenAI dialect. Pure."""

from codecs import getincrementaldecoder
from collections.abc import Sequence

from api.generation.logprobs import entries, finite, text_of
from api.openai.schemas import ChatLogprob, ChatLogprobs, CompletionLogprobs
from shared.protocol import Start, TokenLogprob

_Utf8Decoder = getincrementaldecoder("utf-8")


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Of the content's tokens, and those of the thinking apart; those of calls have no place in the dialect."""
    thinking = [ChatLogprob.model_validate(entry) for entry in entries(tokens, "thinking")]
    return ChatLogprobs(
        content=[ChatLogprob.model_validate(entry) for entry in entries(tokens)],
        reasoning_content=thinking or None,
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
            token_logprobs=[*(None for _ in unscored), *map(finite, scored)],
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
        taken = text_of(other) in best or (not same and text_of(other) == text_of(token))
        if not same:
            best[f"token_id:{other.id}" if taken else text_of(other)] = finite(other)
    return {**best, text_of(token): finite(token)}
