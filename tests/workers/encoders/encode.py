"""Texts through an encoder's engine, as one request."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from shared.protocol import Vectors
from workers.encoders.engine import EncoderEngine, EncoderLimits
from workers.encoders.job import EncodingJob
from workers.encoders.loading.load import LoadedEncoder
from workers.encoders.text import EncodedText


def job(request_id: str, texts: Sequence[EncodedText], **more: Any) -> EncodingJob:
    return EncodingJob(request_id, 1, "api-1", texts, **more)


def encode(
    encoder: LoadedEncoder, texts: Sequence[EncodedText], limits: EncoderLimits | None = None
) -> np.ndarray:
    """(texts, size)"""
    engine = EncoderEngine(encoder.compute, limits or EncoderLimits(padding=0.0))
    engine.add(job("only", texts))
    while engine.active:
        for output in engine.step():
            assert output.delta.vectors is not None
            return table(output.delta.vectors)
    raise AssertionError("the engine forgot the request")


def table(vectors: Vectors) -> np.ndarray:
    return np.frombuffer(vectors.data, "<f4").reshape(-1, vectors.dimensions)
