"""Filling in a middle: a prompt and what follows it between the marks a tokenizer has for that.

Rule 1: marks are tokens; where a tokenizer lacks one of them, a request with a suffix is refused.
Rule 2: what the client wrote is tokenized by itself, so that no mark is missed and none is made up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import UnsupportedParameter

# before the prompt, before the suffix, before the middle
_MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma, Granite
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
)
# What models write behind a middle, besides the end of a turn.
_ENDS = (
    *("<|endoftext|>", "<|fim_pad|>", "<fim_pad>", "<fim-pad>", "▁<EOT>"),
    *("<|file_separator|>", "<|file_sep|>", "<file_sep>", "<|repo_name|>", "<repo_name>"),
)


@dataclass(frozen=True)
class Infill:
    """Token ids. ``begin`` opens every text of this tokenizer."""

    prefix: int
    suffix: int
    middle: int
    ends: frozenset[int] = frozenset()
    begin: Sequence[int] = ()

    def around(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """``before`` may have the opening, which then stays in front."""
        size = len(self.begin)
        begin = list(self.begin) if list(before[:size]) == list(self.begin) else []
        return [*begin, self.prefix, *before[len(begin) :], self.suffix, *after, self.middle]


def infill_of(tokenizer: Any) -> Infill | None:
    """``tokenizer`` is mlx-lm's wrapper."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for marks in _MARKS:
        if all(mark in vocabulary for mark in marks):
            ends = frozenset(vocabulary[mark] for mark in _ENDS if mark in vocabulary)
            begin = [id for id in tokenizer.encode("") if id not in tokenizer.eos_token_ids]
            prefix, suffix, middle = (vocabulary[mark] for mark in marks)
            return Infill(prefix, suffix, middle, ends, begin)
    return None


_GUARD = "☺"  # never part of a longer token


def behind(encode: Callable[[str], list[int]], text: str) -> list[int]:
    """The ids of a text that begins nothing. ``encode`` gives those of the text alone.

    Some tokenizers put a blank before every text (sentencepiece's, as CodeLlama has it). Before a prompt it belongs, as
    that family was trained; before a suffix it would be one that nobody wrote.
    """
    guard = encode(_GUARD)
    guarded = encode(_GUARD + text)
    if guarded[: len(guard)] == guard:
        return guarded[len(guard) :]
    return encode(text)


def no_infill() -> UnsupportedParameter:
    return UnsupportedParameter(
        "Unsupported parameter: 'suffix': this model's tokenizer has no marks for a middle to be filled in. "
        "Leave it out, or use a model whose capabilities have 'infill'.",
        param="suffix",
    )
