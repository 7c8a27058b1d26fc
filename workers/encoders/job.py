"""A request that an encoder can run, and what it is answered with once all of its texts are computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.callers import Asker, asker_of
from shared.protocol import Delta, Finish, FinishReason, Scores, Start, Vectors
from workers.encoders.text import EncodedText
from workers.job import Output

Answer = Literal["vectors", "scores", "cosines"] | Start
"""``cosines``: of the first text with each of the others, as scores from 0 to 1. Start: it is known already."""


@dataclass(frozen=True)
class EncodingJob:
    """``dimensions``: to which vectors are cut; None: they stay."""

    request_id: str
    attempt: int
    api: str
    texts: Sequence[EncodedText]
    answer: Answer = "vectors"
    dimensions: int | None = None
    caller: str = ""
    group: str = ""

    @property
    def asker(self) -> Asker:
        return asker_of(self.caller, self.group, self.request_id)

    def answered(self, results: np.ndarray) -> Output:
        """``results``: (texts, size)."""
        vectors, scores = None, None
        start = Start(prompt_tokens=sum(text.tokens for text in self.texts))
        match self.answer:
            case Start():
                start = self.answer
            case "vectors":
                cut = shortened(results, self.dimensions)
                vectors = Vectors(dimensions=cut.shape[1], data=packed(cut))
            case "scores":
                scores = Scores(data=packed(results[:, 0]))
            case "cosines":
                scores = Scores(data=packed(cosine_scores(results)))
        delta = Delta(
            request_id=self.request_id,
            attempt=self.attempt,
            index=0,
            start=start,
            finish=Finish(reason=FinishReason.STOP, completion_tokens=0),
            vectors=vectors,
            scores=scores,
        )
        return Output(self.api, delta)


def shortened(vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
    """Shortens vectors to ``dimensions`` numbers and normalises them to length 1."""
    return vectors if dimensions is None else unit(vectors[:, :dimensions])


def cosine_scores(vectors: np.ndarray) -> np.ndarray:
    """(1 + cosine) / 2, so that opposites have 0."""
    query, *documents = unit(vectors.astype(np.float64))
    cosines = np.array([float(query @ document) for document in documents])
    return np.clip((1 + cosines) / 2, 0, 1)


def unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12))


def packed(numbers: np.ndarray) -> bytes:
    return np.ascontiguousarray(numbers, dtype="<f4").tobytes()
