"""Vectors and scores as clients of embeddings and rerank read them."""

import asyncio
import base64
import sys
from array import array

from pydantic_core import to_json

from api.embeddings.schemas import (
    EmbeddingItem,
    EmbeddingsRequest,
    EncodingUsage,
    RankedDocument,
    RankedText,
    RerankMeta,
    RerankRequest,
    RerankResponse,
    RerankTokens,
)
from api.generation.replies import Replies
from api.generation.usage import Identity
from shared.errors import WorkerLost
from shared.protocol import Delta, Scores, Vectors

FLOAT = 4  # bytes
AT_ONCE = 16_384  # numbers, between which the loop may do something else


async def whole(replies: Replies) -> Delta:
    """An encoder's answer is one delta."""
    last: Delta | None = None
    async for batch in replies:
        for delta in batch:
            last = delta
    if last is None:
        raise WorkerLost("The answer ended before it began.")
    return last


async def embeddings_body(request: EmbeddingsRequest, model: str, vectors: Vectors, tokens: int) -> bytes:
    """An EmbeddingsResponse as JSON, made piece by piece: of many texts it takes longer than streams may wait."""
    size = vectors.dimensions * FLOAT
    pieces, since = [], 0
    for index, start in enumerate(range(0, len(vectors.data), size)):
        raw = vectors.data[start : start + size]
        item = EmbeddingItem(
            index=index,
            embedding=base64.b64encode(raw).decode() if request.encoding_format == "base64" else numbers(raw),
        )
        pieces.append(item.model_dump_json().encode())
        since += vectors.dimensions
        if since >= AT_ONCE:
            since = 0
            await asyncio.sleep(0)
    rest = to_json({"model": model, "usage": usage(tokens).model_dump()})
    return b'{"object":"list","data":[' + b",".join(pieces) + b"]," + rest[1:]


def rerank_response(request: RerankRequest, model: str, scores: Scores, tokens: int) -> RerankResponse:
    """The best first; of equal ones the first."""
    values, texts = numbers(scores.data), request.texts
    best = sorted(range(len(values)), key=lambda index: (-values[index], index))[: request.top_n]
    return RerankResponse(
        id=Identity.new("rerank-", model).id,
        model=model,
        results=[
            RankedDocument(
                index=index,
                relevance_score=values[index],
                document=RankedText(text=texts[index]) if request.return_documents else None,
            )
            for index in best
        ],
        usage=usage(tokens),
        meta=RerankMeta(tokens=RerankTokens(input_tokens=tokens)),
    )


def usage(tokens: int) -> EncodingUsage:
    return EncodingUsage(prompt_tokens=tokens, total_tokens=tokens)


def numbers(data: bytes) -> list[float]:
    values = array("f", data)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()
