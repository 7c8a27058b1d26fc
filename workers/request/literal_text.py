"""Keeps clients' text literal: text of a message that spells a special token is not encoded as that token.

Such text is escaped before the template is rendered: a sentinel is put inside each spelling of a special token. A copy
of the tokenizer knows the sentinel as a token, so the spelling is split, and the sentinel's id is then removed. Text
without such a spelling keeps its usual ids, and the template's own special tokens are encoded as such.
An assistant's message may contain the delimiters of thinking and calls, because templates look for them there.
"""

import re
import secrets
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from threading import Lock
from typing import Any

from tokenizers import AddedToken, Tokenizer

Json = Any  # any JSON value


class LiteralSpecials:
    """``tokenizer`` is mlx-lm's wrapper. With a tokenizer implemented in Python nothing is escaped."""

    def __init__(self, tokenizer: Any) -> None:
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        added = tokenizer.added_tokens_decoder.values() if self._backend is not None else ()
        self.words = frozenset(
            token.content for token in added if token.special and _breakable(token.content)
        )
        # Digits survive the filters of templates (tojson, upper, trim), and 24 random ones cannot be guessed.
        self._sentinel = "".join(secrets.choice("0123456789") for _ in range(24))
        self._lock = Lock()

    def escaped(self, value: Json, but: Collection[str] = ()) -> Json:
        """``value`` with the sentinel in each spelling of a special token, except those in ``but``."""
        spelling = self._all if not but else re.compile(pattern_of(self.words - set(but)))
        return self._in(value, spelling) if self.words else value

    def escaped_messages(self, messages: list[dict[str, Any]], said: Collection[str]) -> list[dict[str, Any]]:
        """``said``: the special tokens that an assistant's message may contain."""
        return [
            {
                **self.escaped(message, said if message["role"] == "assistant" else ()),
                "role": message["role"],
            }
            for message in messages
        ]

    def is_escaped(self, text: str) -> bool:
        return self._sentinel in text

    def unescaped(self, text: str) -> str:
        return text.replace(self._sentinel, "")

    def encode(self, text: str) -> list[int]:
        tokenizer, sentinel = self._with_sentinel
        return [id for id in tokenizer.encode(text, add_special_tokens=False).ids if id != sentinel]

    def _in(self, value: Json, spelling: re.Pattern[str]) -> Json:
        match value:
            case str():
                return spelling.sub(lambda found: found[0] + self._sentinel, value)
            case dict():
                return {self._in(key, spelling): self._in(each, spelling) for key, each in value.items()}
            case list():
                return [self._in(each, spelling) for each in value]
        return value

    @cached_property
    def _all(self) -> re.Pattern[str]:
        return re.compile(pattern_of(self.words))

    @property
    def _with_sentinel(self) -> tuple[Tokenizer, int]:
        """A tokenizer that knows the sentinel, and the sentinel's id; made on first use, as it may take a second."""
        with self._lock:
            return self._copy

    @cached_property
    def _copy(self) -> tuple[Tokenizer, int]:
        assert self._backend is not None
        copy = Tokenizer.from_str(self._backend.to_str())
        copy.no_truncation()
        copy.no_padding()
        copy.add_special_tokens([AddedToken(self._sentinel, special=True, normalized=False)])
        sentinel = copy.token_to_id(self._sentinel)
        assert sentinel is not None
        return copy, sentinel


def _breakable(word: str) -> bool:
    """Whitespace is excluded, because templates write it as text."""
    return len(word) > 1 and not word.isspace()


def pattern_of(words: Iterable[str]) -> str:
    """A pattern that finds the first character of each occurrence of a word, also of overlapping occurrences.

    Built as a trie, so the cost at each position is bounded by the longest word, however many words there are.
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
        return ""  # a word ends here, so longer words need not be looked for
    branches = []
    for character, rest in sorted(tree.items()):
        branches.append(re.escape(character) + _alternatives(rest))
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
