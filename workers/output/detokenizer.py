"""Turns ids into text before stop strings are looked for: by a table of bytes, or with the tokenizer's own decoder.

The table is fast and exact for most tokenizers; ``vocabulary.py`` checks which. Where the text of a token depends on
its neighbours, the tokenizer decodes a window of the last ids, and the text beyond the previous length is new.
"""

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, overload

PATIENCE = 8  # ids after which an incomplete character is shown as U+FFFD


class Detokenizer(Protocol):
    def push(self, id: int) -> str: ...

    def flush(self) -> str: ...


@dataclass(frozen=True)
class TokenizerDecoder:
    """The tokenizer's own decoder. ``anchor``: an id that precedes a text which continues a prompt."""

    decode: Callable[[list[int]], str]
    anchor: int
    silent: frozenset[int] = frozenset()  # special tokens


@dataclass(frozen=True)
class Vocabulary(Sequence[bytes]):
    """The bytes that each token adds. ``strips``: one space at the very beginning of a text is dropped.

    ``own``: the decoder to use instead where the table is inexact. ``shown``: special tokens that are text, by id.
    """

    table: Sequence[bytes]
    strips: bool = False
    own: TokenizerDecoder | None = None
    shown: Mapping[int, str] = field(default_factory=dict)

    @overload
    def __getitem__(self, id: int) -> bytes: ...
    @overload
    def __getitem__(self, id: slice) -> Sequence[bytes]: ...
    def __getitem__(self, id: int | slice) -> bytes | Sequence[bytes]:
        return self.table[id]

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.table)

    def showing(self, special: Mapping[str, int]) -> "Vocabulary":
        """A copy that shows these special tokens as text."""
        table = list(self.table)
        for text, id in special.items():
            table[id] = text.encode()
        return replace(self, table=table, shown={id: text for text, id in special.items()})

    def detokenizer(self, continues: bool) -> Detokenizer:
        if self.own is not None:
            return WindowDetokenizer(self.own, self.shown, continues)
        return TableDetokenizer(self.table, self.strips and not continues)


def as_vocabulary(table: Sequence[bytes]) -> Vocabulary:
    return table if isinstance(table, Vocabulary) else Vocabulary(table)


class TableDetokenizer:
    def __init__(self, table: Sequence[bytes], strips: bool) -> None:
        self._table = table
        self._strips = strips
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        text = self._decoder.decode(self._table[id] if 0 <= id < len(self._table) else b"")
        if self._strips and text:
            self._strips = False
            return text.removeprefix(" ")
        return text

    def flush(self) -> str:
        return self._decoder.decode(b"", True)


class WindowDetokenizer:
    """The window holds the ids shown last and the new ones: decoders depend on no more than one token before."""

    def __init__(self, own: TokenizerDecoder, shown: Mapping[int, str], continues: bool) -> None:
        self._own = own
        self._shown_special = shown
        self._window = [own.anchor] if continues else []
        self._shown = len(self._window)  # how many ids of the window have been shown

    def push(self, id: int) -> str:
        if id in self._shown_special:
            return self.flush() + self._shown_special[id]
        if id in self._own.silent:
            return ""
        self._window.append(id)
        text = self._new()
        if text.endswith("\ufffd") and len(self._window) - self._shown < PATIENCE:
            return ""
        return self._show(text) if text else ""

    def flush(self) -> str:
        return self._show(self._new()) if len(self._window) > self._shown else ""

    def _new(self) -> str:
        before = self._own.decode(self._window[: self._shown]) if self._shown else ""
        return self._own.decode(self._window)[len(before) :]

    def _show(self, text: str) -> str:
        self._window = self._window[self._shown :]
        self._shown = len(self._window)
        return text
