"""Requests for embeddings and for rerank -> the inner Embedding and Ranking."""

from api.embeddings.schemas import EmbeddingsRequest, RerankRequest
from api.generation.refusals import wrong
from shared.protocol import Embedding, Ranking


def embedding(request: EmbeddingsRequest) -> Embedding:
    """Raises InvalidRequest."""
    texts, ids, single = _items(request.input)
    for item, text in enumerate(texts):
        if not text:
            raise wrong(
                "input" if single else f"input[{item}]", "it is empty, and has no meaning: say something"
            )
    return Embedding(
        texts=texts, ids=ids, single=single, dimensions=request.dimensions, prompt=request.prompt_name
    )


def _items(
    input: str | list[str] | list[int] | list[list[int]],
) -> tuple[list[str], list[list[int]], bool]:
    """Texts, lists of ids, and whether it is one text without a list around it."""
    if isinstance(input, str):
        return [input], [], True
    if ids := [item for item in input if isinstance(item, int)]:  # all of them, or none
        return [], [ids], True
    return [i for i in input if isinstance(i, str)], [i for i in input if isinstance(i, list)], False


def ranking(request: RerankRequest) -> Ranking:
    return Ranking(query=request.query, documents=request.texts, instruction=request.instruction)
