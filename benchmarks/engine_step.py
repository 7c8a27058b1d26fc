"""What one engine step costs without the model: scheduling, sampling, text, and the wire message's bytes.

The model is replaced by one that gives the same logits each time. They are the real model's, for real prompts, because
the cost of top_p depends on how peaked they are.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import mlx.core as mx

from benchmarks.engine_play import decode_jobs
from benchmarks.plans import Decode
from shared.protocol import Chunks, Sampling
from shared.wire import encode
from workers.engine.engine import BatchEngine, EngineLimits
from workers.job import Job, Output, Prepare
from workers.model.load import LoadedModel
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.sequence import TokenRules

T = TypeVar("T")

ROWS, STEPS = 32, 100
KINDS: dict[str, dict[str, Any]] = {  # of rows: what their requests ask for
    "greedy": {"sampling": Sampling(seed=1, temperature=0.0)},
    "temperature 0.7": {"sampling": Sampling(seed=1, temperature=0.7)},
    "temperature 0.7, top_p 0.95": {"sampling": Sampling(seed=1, temperature=0.7, top_p=0.95)},
    "penalties": {
        "sampling": Sampling(seed=1, temperature=0.0, frequency_penalty=0.5, repetition_penalty=1.1)
    },
    "logprobs": {"sampling": Sampling(seed=1, temperature=0.0), "logprobs": 5},
}


class FixedModel:
    """Gives row i the logits i, and keeps a KV cache of next to nothing."""

    def __init__(self, logits: mx.array) -> None:
        self.layers = [None]  # mlx-lm makes one KV cache for each
        self._logits = logits

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        rows, length = tokens.shape
        nothing = mx.zeros((rows, 1, length, 1))
        kept = cache[0].update_and_fetch(nothing, nothing)
        logits = mx.broadcast_to(self._logits[:rows, None], (rows, length, self._logits.shape[-1]))
        held: mx.array = mx.depends(logits, list(kept))  # else the cache would never be computed
        return held


def step_cost(loaded: LoadedModel, prepare: Prepare) -> dict[str, dict[str, float]]:
    """Seconds, median of the steps: of the step, and of encoding its message; by kind."""
    jobs = decode_jobs(prepare, Decode(ROWS), "step")
    engine = _engine(loaded, FixedModel(_real_logits(loaded.model, jobs)))
    return {name: _cost(engine, jobs, asked) for name, asked in KINDS.items()}


def _engine(loaded: LoadedModel, model: FixedModel) -> BatchEngine:
    rules = TokenRules(token_bytes(loaded.tokenizer), frozenset(loaded.tokenizer.eos_token_ids))
    return BatchEngine(model, rules, vocabulary_size_of(loaded), EngineLimits(rows=ROWS))


def _real_logits(model: Any, jobs: list[Job]) -> mx.array:
    last = [model(mx.array([job.prompt]))[0, -1] for job in jobs]
    logits = mx.stack(last)
    mx.eval(logits)
    return logits


def _cost(engine: BatchEngine, jobs: list[Job], asked: dict[str, Any]) -> dict[str, float]:
    for job in jobs:
        engine.add(replace(job, generation=job.generation.model_copy(update=asked)))
    while engine.step() == [] or engine.report["rows"] != ROWS:
        pass
    steps, encodings = [], []
    for _ in range(STEPS):
        seconds, outputs = _timed(engine.step)
        steps.append(seconds)
        encodings.append(_timed(partial(_message, outputs))[0])
    for job in jobs:
        engine.cancel(job.request_id)
    engine.step()
    return {"step": statistics.median(steps), "encode": statistics.median(encodings)}


def _message(outputs: list[Output]) -> bytes:
    return encode(Chunks(deltas=[output.delta for output in outputs]))


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done
