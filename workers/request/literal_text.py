"""What clients write stays text: words of a message that spell a special token do not become it.

The words are marked before the template is rendered: a mark is put inside of each spelling. To a tokenizer that knows
the mark as a token, the spelling is broken; its ids are then left out. So words without such a spelling have the ids
they always have, and the template's own special tokens are what they are.
What an assistant said may have the marks of thinking and calls, which templates look for.
"""

import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from threading import Lock
from typing import Any

from tokenizers import AddedToken, Tokenizer

Json = Any  # what JSON can hold


class LiteralSpecials:
    """``tokenizer`` is mlx-lm's wrapper; of one that is written in Python nothing is told apart."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        added = tokenizer.added_tokens_decoder.values() if self._backend is not None else ()
        self.words = frozenset(
            token.content for token in added if token.special and _breakable(token.content)
        )
        # Digits survive what templates do to text (JSON, upper, trim), and nobody can guess so many.
        self._mark = "".join(secrets.choice("0123456789") for _ in range(24))
        self._lock = Lock()

    def marked(self, value: Json, but: Collection[str] = ()) -> Json:
        """``value`` with a mark in each spelling of a special token, except those in ``but``."""
        spelling = self._all if not but else re.compile(pattern_of(self.words - set(but)))
        return self._in(value, spelling) if self.words else value

    def marked_messages(self, messages: list[dict[str, Any]], said: Collection[str]) -> list[dict[str, Any]]:
        """``said``: what an assistant may have said."""
        return [
            {
                **self.marked(message, said if message["role"] == "assistant" else ()),
                "role": message["role"],
            }
            for message in messages
        ]

    def marks(self, text: str) -> bool:
        return self._mark in text

    def unmarked(self, text: str) -> str:
        return text.replace(self._mark, "")

    def encode(self, text: str) -> list[int]:
        tokenizer, mark = self._knowing
        return [id for id in tokenizer.encode(text, add_special_tokens=False).ids if id != mark]

    def _in(self, value: Json, spelling: re.Pattern[str]) -> Json:
        match value:
            case str():
                return spelling.sub(lambda found: found[0] + self._mark, value)
            case dict():
                return {self._in(key, spelling): self._in(each, spelling) for key, each in value.items()}
            case list():
                return [self._in(each, spelling) for each in value]
        return value

    @cached_property
    def _all(self) -> re.Pattern[str]:
        return re.compile(pattern_of(self.words))

    @property
    def _knowing(self) -> tuple[Tokenizer, int]:
        """A tokenizer that knows the mark, and its id; made when first needed, as some take a second."""
        with self._lock:
            return self._copy

    @cached_property
    def _copy(self) -> tuple[Tokenizer, int]:
        assert self._backend is not None
        copy = Tokenizer.from_str(self._backend.to_str())
        copy.no_truncation()
        copy.no_padding()
        copy.add_special_tokens([AddedToken(self._mark, special=True, normalized=False)])
        mark = copy.token_to_id(self._mark)
        assert mark is not None
        return copy, mark


def _breakable(word: str) -> bool:
    """Blanks are what a template writes as text too."""
    return len(word) > 1 and not word.isspace()


def pattern_of(words: Iterable[str]) -> str:
    """Finds the first character of each place where one of the words stands, also where two overlap.

    A tree of what they begin with alike: a place costs what its longest word costs, however many words there are.
    """
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    if not tree:
        return "(?!)"
    return "|".join(f"{re.escape(first)}(?={_alternatives(rest)})" for first, rest in sorted(tree.items()))


def _alternatives(tree: Mapping[str, Any]) -> str:
    if "" in tree:
        return ""  # a word ends here: found, whatever follows
    branches = []
    for character, rest in sorted(tree.items()):
        branches.append(re.escape(character) + _alternatives(rest))
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
