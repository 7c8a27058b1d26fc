"""Fill-in-the-middle: a prompt and its suffix between the special tokens that a tokenizer has for it.

Rule 1: a request with a suffix is refused if the tokenizer lacks one of the three special tokens.
Rule 2: the client's text is tokenized by itself, so it neither hides a special token nor spells one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import UnsupportedParameter

# The special tokens before the prompt, before the suffix and before the middle.
_SPECIAL_TOKENS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma, Granite
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM
)
# Special tokens with which models end a middle, beside those that end a turn.
_ENDS = (
    *("<|endoftext|>", "<|fim_pad|>", "<fim_pad>", "<fim-pad>", "▁<EOT>"),
    *("<|file_separator|>", "<|file_sep|>", "<file_sep>", "<|repo_name|>", "<repo_name>"),
)


@dataclass(frozen=True)
class Infill:
    """Token ids. ``begin``: the tokenizer's BOS token, if it has one."""

    prefix: int
    suffix: int
    middle: int
    ends: frozenset[int] = frozenset()
    begin: Sequence[int] = ()

    def around(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """The ids of the whole prompt; a BOS token in ``before`` stays first."""
        size = len(self.begin)
        begin = list(self.begin) if list(before[:size]) == list(self.begin) else []
        return [*begin, self.prefix, *before[len(begin) :], self.suffix, *after, self.middle]


def infill_of(tokenizer: Any) -> Infill | None:
    """``tokenizer`` is mlx-lm's wrapper."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    for tokens in _SPECIAL_TOKENS:
        if all(token in vocabulary for token in tokens):
            ends = frozenset(vocabulary[token] for token in _ENDS if token in vocabulary)
            begin = [id for id in tokenizer.encode("") if id not in tokenizer.eos_token_ids]
            prefix, suffix, middle = (vocabulary[token] for token in tokens)
            return Infill(prefix, suffix, middle, ends, begin)
    return None


_GUARD = "☺"  # no token contains it beside other characters


def behind(encode: Callable[[str], list[int]], text: str) -> list[int]:
    """The ids of a text that continues another. ``encode`` returns those of a text by itself.

    SentencePiece tokenizers, such as CodeLlama's, add a space before every text. Before a prompt the model expects it;
    before a suffix it would be a space that the client did not write.
    """
    guard = encode(_GUARD)
    guarded = encode(_GUARD + text)
    if guarded[: len(guard)] == guard:
        return guarded[len(guard) :]
    return encode(text)


def no_infill() -> UnsupportedParameter:
    return UnsupportedParameter(
        "Unsupported parameter: 'suffix': this model's tokenizer has no special tokens for fill-in-the-middle. "
        "Leave it out, or use a model whose capabilities have 'infill'.",
        param="suffix",
    )
