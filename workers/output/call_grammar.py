"""A call format, taken apart for the reader: what may begin a call, follow it and end all calls."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workers.chat_template.call_format import CallFormat
from workers.output.call_bodies import CallBody, ListBody, ObjectBody
from workers.output.call_marks import MarkPiece, Matched, Mismatch, Names, Text, pieces_of
from workers.output.tagged_body import TaggedBody

# Of a call without marks behind text; it is one only if its name is a tool's.
BARE_STARTS = tuple(
    f'{{{blank}"{key}"' for blank in ("", " ", "\n", "\n  ", "\n    ") for key in ("name", "type", "function")
)


@dataclass(frozen=True)
class CallGrammar:
    """A format, taken apart for reading, and the tools that may be called."""

    format: CallFormat
    schemas: dict[str, dict[str, Any]]

    @cached_property
    def names(self) -> Names:
        return Names(frozenset(self.schemas))

    def known(self, name: str) -> str:
        """A tool's name, before which models may write a namespace. Raises Mismatch."""
        for each in (name, name.removeprefix("functions.")):
            if each in self.schemas:
                return each
        raise Mismatch

    @cached_property
    def opening(self) -> tuple[MarkPiece, ...]:
        return pieces_of(self.format.opening)

    @cached_property
    def heads(self) -> list[tuple[MarkPiece, ...]]:
        """What may begin the first call."""
        return [pieces_of(self.format.outer[0]) + self.opening, *map(pieces_of, self.format.also)]

    @cached_property
    def next_heads(self) -> list[tuple[MarkPiece, ...]]:
        """What may begin a call behind another one."""
        return [pieces_of(self.format.between) + self.opening, *self.heads]

    @cached_property
    def object_heads(self) -> dict[str, list[tuple[MarkPiece, ...]]]:
        """What may stand before a call as a JSON object, where the template shows no such object between the marks."""
        found: dict[str, list[tuple[MarkPiece, ...]]] = {}
        head = self.heads[0]
        before = head[: next((i for i, piece in enumerate(head) if piece.has_name), len(head))]
        last = max((i + 1 for i, piece in enumerate(before) if piece.strong), default=0)
        for i, piece in enumerate(before[:last]):
            if piece.strong:
                found[piece.parts[0]] = [before[i:last]]
        return found

    def object_body(self, at: int, *, fenced: bool) -> CallBody:
        """A call as a JSON object between this format's marks; ``fenced``: as a block of code."""
        return ObjectBody(CallFormat("json", closing=self.format.closing), "", at, fenced=fenced)

    @property
    def bare(self) -> bool:
        """Whether a call has no mark before its name or its body, and so stands at the beginning of a text."""
        return not self.heads[0] or self.heads[0][0].has_name_first

    @cached_property
    def outer_end(self) -> tuple[MarkPiece, ...]:
        return pieces_of(self.format.outer[1])

    @cached_property
    def ends(self) -> list[tuple[MarkPiece, ...]]:
        """What may end all calls: tokens that end the turn are no text, so last marks may be missing."""
        strong = [i for i, piece in enumerate(self.outer_end) if piece.strong]
        return [
            self.outer_end,
            *(self.outer_end[: i + 1] for i in reversed(strong) if i + 1 < len(self.outer_end)),
            *(self.outer_end[i:] for i in strong[:1] if i > 0),  # the bracket before it may be missing
        ]

    @cached_property
    def spare(self) -> frozenset[str]:
        """Marks of an end that may be written once more behind it."""
        pieces = (*pieces_of(self.format.closing), *self.outer_end)
        return frozenset(piece.parts[0] for piece in pieces if piece.strong and len(piece.parts) == 1)

    def is_cut_end(self, text: str) -> bool:
        """Whether this is the beginning of what stands behind a call."""
        pieces = (*pieces_of(self.format.closing), *self.outer_end)
        words = ["".join(piece.parts) for piece in pieces]
        cut = "".join(text.split())
        rests = ["".join("".join(words[i:]).split()) for i in range(len(words))]
        return bool(cut) and any(rest.startswith(cut) for rest in rests)

    @cached_property
    def starts(self) -> dict[str, list[tuple[MarkPiece, ...]]]:
        """The first words of what may begin a call, and what must follow from there."""
        found: dict[str, list[tuple[MarkPiece, ...]]] = {}
        for head in self.heads:
            for i, piece in enumerate(head):
                if (i == 0 or piece.strong) and not piece.has_name_first:
                    found.setdefault(piece.parts[0], []).append(head[i:])
                if piece.has_name:
                    break
        if self.format.kind == "json" and not self.heads[0]:
            found |= {word: [()] for word in BARE_STARTS}
        return found

    @cached_property
    def start(self) -> re.Pattern[str] | None:
        longest_first = sorted(self.starts, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def body(self, text: Text, matched: Matched) -> CallBody:
        match self.format.kind:
            case "tagged":
                return TaggedBody(self.format, self.schemas[matched.name], matched.name, matched.end)
            case "json_list":
                return ListBody(self.format, matched.name, matched.end)
        return ObjectBody(self.format, matched.name, matched.end)


def starts_of(format: CallFormat) -> tuple[str, ...]:
    """What begins a call and nothing else: the strong marks before a name, with the weak ones right before them."""
    grammar, found = CallGrammar(format, {}), []
    for head in grammar.heads:
        word = ""
        for piece in head:
            if piece.has_name_first:
                break
            word += piece.parts[0]
            if piece.strong:
                found.append(word)
                word = ""
            if piece.has_name:
                break
    return tuple(dict.fromkeys(found))
