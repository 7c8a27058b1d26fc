"""Log probabilities in the shapes of chat and of completions. Pure."""

from codecs import getincrementaldecoder
from collections.abc import Sequence

from api.generation.logprobs import entries, finite, text_of
from api.openai.schemas import ChatLogprob, ChatLogprobs, CompletionLogprobs
from shared.protocol import Start, TokenLogprob

_Utf8Decoder = getincrementaldecoder("utf-8")


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Of the content's tokens, and apart of the thinking's; the dialect has no place for those of calls."""
    thinking = [ChatLogprob.model_validate(entry) for entry in entries(tokens, "thinking")]
    return ChatLogprobs(
        content=[ChatLogprob.model_validate(entry) for entry in entries(tokens)],
        reasoning_content=thinking or None,
    )


class CompletionScores:
    """The four arrays of one choice; ``text_offset`` continues from call to call."""

    def __init__(self) -> None:
        self._decoder = _Utf8Decoder("replace")
        self._offset = 0

    def next(self, tokens: Sequence[TokenLogprob], start: Start | None = None) -> CompletionLogprobs:
        """``start`` has the echoed prompt, whose first token has no log probability."""
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
        """The offset at which the piece begins."""
        offset = self._offset
        self._offset += len(self._decoder.decode(piece))
        return offset


def _echoed(start: Start | None) -> tuple[list[bytes], list[TokenLogprob]]:
    """The text of the prompt's first token, and the other tokens."""
    if start is None or start.prompt_logprobs is None:
        return [], []
    text = (start.prompt_text or "").encode()
    behind = b"".join(token.bytes for token in start.prompt_logprobs)
    first = text.removesuffix(behind) if text.endswith(behind) else b""
    return [first], list(start.prompt_logprobs)


def _best_and_chosen(token: TokenLogprob) -> dict[str, float]:
    """The chosen token is always among them, with the same number as in ``token_logprobs``.

    Another token with the same text is written as its id, so that clients see whether the chosen one was the best.
    """
    best: dict[str, float] = {}
    for other in token.top:
        same = other.id == token.id
        taken = text_of(other) in best or (not same and text_of(other) == text_of(token))
        if not same:
            best[f"token_id:{other.id}" if taken else text_of(other)] = finite(other)
    return {**best, text_of(token): finite(token)}
