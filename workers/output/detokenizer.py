"""How ids become text before stop strings are looked for: by a table of bytes, or as the tokenizer itself decodes.

A table is fast and right for most tokenizers (``vocabulary.py`` proves which). Where what a token adds hangs on its
neighbours, the tokenizer decodes a window of the last ids, and what is longer than before is new.
"""

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, overload

PATIENCE = 8  # ids that an incomplete character may take


class Spelling(Protocol):
    def push(self, id: int) -> str: ...

    def flush(self) -> str: ...


@dataclass(frozen=True)
class Own:
    """The tokenizer's decoding. ``anchor``: an id to decode in front of a text that goes on from another."""

    decode: Callable[[list[int]], str]
    anchor: int
    silent: frozenset[int] = frozenset()  # special tokens


@dataclass(frozen=True)
class Vocabulary(Sequence[bytes]):
    """The bytes each token adds. ``strips``: but for one blank at a text's very beginning.

    ``own``: where the table is only nearly right. ``marks``: special tokens that are shown, by id.
    """

    table: Sequence[bytes]
    strips: bool = False
    own: Own | None = None
    marks: Mapping[int, str] = field(default_factory=dict)

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

    def marked(self, marks: Mapping[str, int]) -> "Vocabulary":
        """With these special tokens as text."""
        table = list(self.table)
        for text, id in marks.items():
            table[id] = text.encode()
        return replace(self, table=table, marks={id: text for text, id in marks.items()})

    def spelling(self, continues: bool) -> Spelling:
        if self.own is not None:
            return OwnSpelling(self.own, self.marks, continues)
        return TableSpelling(self.table, self.strips and not continues)


def as_vocabulary(table: Sequence[bytes]) -> Vocabulary:
    return table if isinstance(table, Vocabulary) else Vocabulary(table)


class TableSpelling:
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


class OwnSpelling:
    """The window is what was shown last, then what is new: decoders look no further back than one token."""

    def __init__(self, own: Own, marks: Mapping[int, str], continues: bool) -> None:
        self._own = own
        self._marks = marks
        self._window = [own.anchor] if continues else []
        self._shown = len(self._window)  # ids of the window

    def push(self, id: int) -> str:
        if id in self._marks:
            return self.flush() + self._marks[id]
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
