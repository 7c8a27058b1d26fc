"""Texts and pairs of texts -> token ids for one encoder.

Rule 1: what is longer than the model reads is refused with its number of tokens, or cut where an operator said so.
Rule 2: what a client writes stays text: words that spell a special token do not become it.
Rule 3: an id that the model has no embedding for is refused: it would be read out of bounds.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Encoding, Tokenizer

from shared.errors import ContextLengthExceeded, InvalidRequest
from workers.model.load_error import IncompleteError, LoadError, first_line
from workers.request.preparation import Overrun

CHARACTERS = 64  # for each token: more than tokens have; a tokenizer that drops blanks may read more


class EncodedText(NamedTuple):
    """``types``: 1 for the second text of a pair. ``skipped``: tokens of a prompt that is not pooled."""

    ids: list[int]
    types: list[int]
    skipped: int = 0

    @property
    def tokens(self) -> int:
        return len(self.ids)


class TextEncoder:
    """``ids``: the model knows so many, from 0 on. ``max_length``: tokens that it reads. ``truncates``: a longer text
    loses its end, of a pair the longer one does; what a tokenizer puts at the end of a text stays.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_length: int,
        ids: int,
        *,
        lower_case: bool = False,
        truncates: bool = False,
    ) -> None:
        tokenizer.no_truncation()
        if truncates:
            tokenizer.enable_truncation(max_length)
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._lower_case = lower_case
        self._truncates = truncates
        self._ids = ids
        self._characters = max(CHARACTERS, max(map(len, tokenizer.get_vocab()), default=1)) * max_length
        self.max_length = max_length

    def text(self, text: str, param: str, prompt: str = "", *, counts_prompt: bool = True) -> EncodedText:
        """``prompt`` goes before it. ``param``: what the client calls the text. Raises InvalidRequest."""
        text = self._short(text, param)
        encoded = self._encoded(param, self._cased(prompt + text))
        skipped = 0 if counts_prompt or not prompt else self._length_of_prompt(prompt)
        return self._checked(encoded.ids, encoded.type_ids, param, skipped)

    def pair(self, first: str, second: str, param: str) -> EncodedText:
        """Raises InvalidRequest."""
        first, second = self._short(first, param, len(second)), self._short(second, param, len(first))
        encoded = self._encoded(param, self._cased(first), self._cased(second))
        return self._checked(encoded.ids, encoded.type_ids, param)

    def framed(self, before: Sequence[int], text: str, after: Sequence[int], param: str) -> EncodedText:
        """Between ids of a template. Raises InvalidRequest."""
        ids = self._encoded(param, self._cased(self._short(text, param)), opened=False).ids
        room = self.max_length - len(before) - len(after)
        ids = [*before, *(ids[: max(0, room)] if self._truncates else ids), *after]
        return self._checked(ids, [0] * len(ids), param)

    def tokens(self, ids: Sequence[int], param: str) -> EncodedText:
        """Ids as a client has them: nothing is put around them. Raises InvalidRequest."""
        if self._truncates:
            ids = ids[: self.max_length]
        return self._checked(list(ids), [0] * len(ids), param)

    def decoded(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def _cased(self, text: str) -> str:
        return text.lower() if self._lower_case else text

    def _length_of_prompt(self, prompt: str) -> int:
        """Tokens of a prompt with the opening special tokens and without the closing ones."""
        whole = self._encoded("", self._cased(prompt))
        return len(whole.ids) - 1 if whole.special_tokens_mask[-1:] == [1] else len(whole.ids)

    def _encoded(self, param: str, text: str, pair: str | None = None, *, opened: bool = True) -> Encoding:
        try:
            return self._tokenizer.encode(text, pair, add_special_tokens=opened)
        except Overrun:
            raise
        except BaseException as error:  # noqa: BLE001 - a panic in Rust, as pyo3 passes it on, is no Exception
            raise InvalidRequest(
                f"This model's tokenizer cannot read {param} ({type(error).__name__}).", param=param
            ) from None

    def _short(self, text: str, param: str, beside: int = 0) -> str:
        """The text, or what of it the model may read; no tokenizer sees more.

        ``beside``: characters of the other text of a pair.
        """
        if self._truncates:
            return text[: self._characters]
        if (characters := len(text) + beside) > self._characters:
            raise ContextLengthExceeded(
                f"{param} has {characters} characters, and this model reads {self.max_length} tokens of a text "
                "at most: split it.",
                param=param,
                prompt_tokens=self.max_length + 1,
                context_length=self.max_length,
            )
        return text

    def _checked(self, ids: list[int], types: list[int], param: str, skipped: int = 0) -> EncodedText:
        if not ids:
            raise InvalidRequest(f"{param} has no tokens: say something.", param=param)
        if len(ids) > self.max_length:
            raise ContextLengthExceeded(
                f"{param} has {len(ids)} tokens, and this model reads {self.max_length} at most: split it.",
                param=param,
                prompt_tokens=len(ids),
                context_length=self.max_length,
            )
        if (wrong := next((id for id in ids if not 0 <= id < self._ids), None)) is not None:
            raise InvalidRequest(
                f"{param} has the token id {wrong}; this model's ids are 0 to {self._ids - 1}.", param=param
            )
        return EncodedText(ids, types, min(skipped, len(ids) - 1))


def read_tokenizer(folder: Path) -> Tokenizer:
    """Raises LoadError."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise IncompleteError("The model folder has no tokenizer.json, which encoders need: fetch it again.")
    try:
        data = file.read_bytes()
        return Tokenizer.from_str(data.decode(json.detect_encoding(data)))  # also with a byte order mark
    except Exception as error:
        raise LoadError(f"tokenizer.json cannot be read: {first_line(error)}.", permanent=True) from error
