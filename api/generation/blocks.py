"""Assembles the deltas of one choice to blocks of thinking, text and calls. Pure.

Rule 1: one block is open at a time; a delta of another kind, or of another call, closes it.
Rule 2: a finished choice has at least one block, if only an empty text.
Rule 3: every dialect makes its whole answers from these blocks, and the typed dialects their events as well.
"""

from collections.abc import AsyncIterable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from api.generation.usage import TokenCounter
from shared.protocol import CallPiece, Delta, Finish, Start, TokenLogprob

Kind = Literal["thinking", "text", "call"]


@dataclass
class Block:
    """``id`` and ``name`` belong to a call, whose pieces are JSON text; ``call`` is the call's number."""

    index: int
    kind: Kind
    id: str = ""
    name: str = ""
    call: int | None = None
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True)
class Opened:
    block: Block


@dataclass(frozen=True)
class Grew:
    block: Block
    piece: str
    logprobs: list[TokenLogprob]


@dataclass(frozen=True)
class Closed:
    block: Block


Change = Opened | Grew | Closed


class Blocks:
    """The blocks of one choice. ``logprobs`` are those of all its tokens, in every block.

    ``counter`` counts the tokens of the whole request; its choices share it.
    """

    def __init__(self, counter: TokenCounter | None = None) -> None:
        self.all: list[Block] = []
        self.counter = counter or TokenCounter(1)
        self.start: Start | None = None
        self.finish: Finish | None = None
        self.logprobs: list[TokenLogprob] = []
        self._open: Block | None = None
        self._scores: list[TokenLogprob] = []

    def text(self, kind: Kind = "text") -> str:
        """The text of all blocks of one kind."""
        return "".join(block.text for block in self.all if block.kind == kind)

    @property
    def calls(self) -> list[Block]:
        return [block for block in self.all if block.kind == "call"]

    def take(self, delta: Delta) -> Iterator[Change]:
        self.counter.see(delta)
        self.start = self.start or delta.start
        self.logprobs += delta.logprobs or ()
        self._scores += [token for token in delta.logprobs or () if token.part is None]
        if delta.reasoning:
            yield from self._grow("thinking", delta.reasoning)
        if delta.text:
            yield from self._grow("text", delta.text)
        for piece in delta.calls:
            yield from self._call(piece)
        if delta.finish is not None:
            self.finish = delta.finish
            yield from self._end()

    def _grow(self, kind: Kind, piece: str) -> Iterator[Change]:
        block = self._open
        if block is None or block.kind != kind:
            block = yield from self._begin(Block(len(self.all), kind))
        scores: list[TokenLogprob] = []
        if kind == "text":
            scores, self._scores = self._scores, []
        block.pieces.append(piece)
        block.logprobs += scores
        yield Grew(block, piece, scores)

    def _call(self, piece: CallPiece) -> Iterator[Change]:
        block = self._open
        if block is None or block.call != piece.index:
            block = yield from self._begin(
                Block(len(self.all), "call", piece.id or "", piece.name or "", piece.index)
            )
        self._scores = []
        if piece.arguments:
            block.pieces.append(piece.arguments)
            yield Grew(block, piece.arguments, [])

    def _begin(self, block: Block) -> Generator[Change, None, Block]:
        yield from self._close()
        self._open = block
        self.all.append(block)
        yield Opened(block)
        return block

    def _close(self) -> Iterator[Change]:
        if self._open is not None:
            yield Closed(self._open)
            self._open = None

    def _end(self) -> Iterator[Change]:
        if not self.all:
            yield from self._begin(Block(0, "text"))
        yield from self._close()


async def gather(replies: AsyncIterable[list[Delta]], prompts: int = 1, n: int = 1) -> Sequence[Blocks]:
    """Reads every choice to its end: ``n`` of each prompt, in the order of the prompts."""
    counter = TokenCounter(n)
    choices = [Blocks(counter) for _ in range(prompts * n)]
    async for batch in replies:
        for delta in batch:
            for _ in choices[delta.choice].take(delta):
                pass
    return choices
