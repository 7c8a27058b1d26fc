"""A chat delta with more than text -> the deltas of chunks. Pure.

Rule 1: a call's id, type and name come once, without arguments; its index comes in every piece.
Rule 2: a request with ``functions`` gets ``function_call``.
"""

from collections.abc import Iterator

from api.openai.schemas import CalledFunctionPiece, CallPieceMade, ChunkDelta
from shared.protocol import CallPiece, Delta


def chunk_deltas(delta: Delta, legacy: bool) -> list[ChunkDelta]:
    """At least one, which carries the delta's log probabilities."""
    out = []
    if delta.reasoning:
        out.append(ChunkDelta(reasoning_content=delta.reasoning, reasoning=delta.reasoning))
    if delta.text:
        out.append(ChunkDelta(content=delta.text))
    for piece in delta.calls:
        out += _legacy_pieces(piece) if legacy else _pieces(piece)
    return out or [ChunkDelta(content="")]


def _pieces(piece: CallPiece) -> Iterator[ChunkDelta]:
    if piece.name is not None:
        function = CalledFunctionPiece(name=piece.name, arguments="")
        first = CallPieceMade(index=piece.index, id=piece.id, type="function", function=function)
        yield ChunkDelta(tool_calls=[first])
    if piece.arguments:
        more = CallPieceMade(index=piece.index, function=CalledFunctionPiece(arguments=piece.arguments))
        yield ChunkDelta(tool_calls=[more])


def _legacy_pieces(piece: CallPiece) -> Iterator[ChunkDelta]:
    if piece.name is not None:
        yield ChunkDelta(function_call=CalledFunctionPiece(name=piece.name, arguments=""))
    if piece.arguments:
        yield ChunkDelta(function_call=CalledFunctionPiece(arguments=piece.arguments))
