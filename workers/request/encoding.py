"""Encodes text to token ids for one tokenizer and one model.

Rule 1: text with more characters than the context can hold is refused before it is tokenized. Of long text the first
part is tokenized first, and the rest only if that part leaves room.
Rule 2: an id without an embedding is refused, wherever it comes from: the model would read out of bounds.
Rule 3: any exception of the tokenizer, a panic included, refuses the text. No refusal quotes the text.
"""

from collections.abc import Callable, Iterable
from typing import Any

from shared.errors import ContextLengthExceeded, InvalidRequest
from workers.request.literal_text import LiteralSpecials
from workers.request.preparation import Overrun

FIRST_PART = 16  # characters per token of the context; real text has four or five per token
SURELY = 2  # contexts; if the first part has more tokens than these, no further text can bring them below one


class Encoder:
    """``tokenizer`` is mlx-lm's wrapper of a Hugging Face tokenizer; ``ids``: how many ids the model can embed."""

    def __init__(self, tokenizer: Any, context_length: int, ids: int) -> None:
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._ids = ids
        self.longest = max(map(len, tokenizer.get_vocab()), default=1)
        self.literals = LiteralSpecials(tokenizer)

    def encode(self, text: str, param: str, *, opened: bool = False) -> list[int]:
        """``opened``: with the tokenizer's BOS token. Raises InvalidRequest, ContextLengthExceeded."""

        def encode(text: str) -> list[int]:
            return list(self._tokenizer.encode(text, add_special_tokens=opened))

        return self._checked(text, param, encode)

    def beginning(self, text: str, param: str) -> list[int]:
        """Of text that is no prompt, as many ids as the context holds. Raises InvalidRequest."""
        text = text[: self._context_length * self.longest]
        ids = self._read(
            text, param, lambda text: list(self._tokenizer.encode(text, add_special_tokens=False))
        )
        return ids[: self._context_length]

    def encode_chat(self, text: str, param: str) -> list[int]:
        """``text``: a rendered template; escapes of ``literal_text`` are removed."""
        encode = self.literals.encode if self.literals.is_escaped(text) else None
        return self._checked(text, param, encode) if encode else self.encode(text, param)

    def refuse_long(self, characters: int, param: str) -> None:
        """Raises ContextLengthExceeded if so many characters cannot fit, even if every token is the longest one."""
        if characters > self._context_length * self.longest:
            least = -(-characters // self.longest)
            raise self._too_long(least, param, f" (it has {characters} characters)")

    def check_ids(self, ids: Iterable[int], param: str, what: str = "The prompt has") -> None:
        if (wrong := next((id for id in ids if not 0 <= id < self._ids), None)) is not None:
            raise InvalidRequest(
                f"{what} the token id {wrong}; this model's ids are 0 to {self._ids - 1}.", param=param
            )

    def _checked(self, text: str, param: str, encode: Callable[[str], list[int]]) -> list[int]:
        self.refuse_long(len(text), param)
        if len(text) > FIRST_PART * self._context_length:
            first_part = self._read(text[: FIRST_PART * self._context_length], param, encode)
            self._refuse_by_first_part(first_part, param)
        return self._read(text, param, encode)

    def _read(self, text: str, param: str, encode: Callable[[str], list[int]]) -> list[int]:
        try:
            ids = encode(text)
        except Overrun:
            raise
        except BaseException as error:  # noqa: BLE001 - pyo3 raises a panic in Rust as a BaseException
            raise InvalidRequest(
                f"This model's tokenizer cannot read this text ({type(error).__name__}).", param=param
            ) from None
        self.check_ids(ids, param, "The text spells a token that is not the model's:")
        return ids

    def _refuse_by_first_part(self, ids: list[int], param: str) -> None:
        if len(ids) > SURELY * self._context_length:
            raise self._too_long(len(ids), param)

    def _too_long(self, least: int, param: str, why: str = "") -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"This model's maximum context length is {self._context_length} tokens. However, your prompt has "
            f"at least {least}{why}. Shorten the prompt.",
            param=param,
            prompt_tokens=least,
            context_length=self._context_length,
        )
