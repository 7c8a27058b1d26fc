"""The encoders' engine: who is beside whom changes nothing, requests end whole, a cancelled one is forgotten."""

import mlx.core as mx
import numpy as np
import pytest

from tests.workers.encoders import folders
from tests.workers.encoders.encode import encode, job, table
from tests.workers.encoders.test_families import load, texts
from workers.device import ACCELERATOR_PATH
from workers.encoders.engine import EncoderEngine, EncoderLimits
from workers.encoders.invariance import invariance_of_encoder
from workers.encoders.loading.load import LoadedEncoder
from workers.encoders.text import EncodedText
from workers.engine.cpu.model_patches import patch_models
from workers.engine.memory.device_memory import LEAST_POOL, SCRATCH

NEAR = 1e-6
LENGTHS = (1, 2, 2, 3, 5, 7, 7, 7, 12, 20, 33, 40, 50)


@pytest.fixture(scope="module", params=["bert", "modernbert", "qwen3"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedEncoder:
    patch_models()
    tokenizer = folders.chat_tokenizer(opens=True) if request.param == "qwen3" else folders.word_tokenizer()
    config, shapes = {
        "bert": (folders.BERT, folders.bert_shapes),
        "modernbert": (folders.MODERN_BERT, folders.modernbert_shapes),
        "qwen3": (folders.QWEN3, folders.qwen3_shapes),
    }[request.param]
    config = config | {"vocab_size": tokenizer.get_vocab_size()}
    folder = tmp_path_factory.mktemp("encoder") / request.param
    weights = folders.random_weights(shapes(config))
    return load(folders.write_folder(folder, config, weights, tokenizer, folders.sentence_files()))


def some(encoder: LoadedEncoder) -> list[EncodedText]:
    return [encoder.text.text(text, "input") for text in texts(LENGTHS)]


@pytest.mark.parametrize("padding", [0.0, 0.25])
def test_a_texts_vector_does_not_depend_on_its_neighbours(encoder: LoadedEncoder, padding: float) -> None:
    limits = EncoderLimits(tokens=200, padding=padding)
    among = encode(encoder, some(encoder), limits)
    alone = np.concatenate([encode(encoder, [text], limits) for text in some(encoder)])
    if padding == 0.0 and invariance_of_encoder(encoder.modules) == "exact":
        assert np.array_equal(among, alone)
    assert np.abs(among - alone).max() < NEAR


def test_vectors_are_in_the_order_of_the_texts_whatever_order_they_are_computed_in(
    encoder: LoadedEncoder,
) -> None:
    several = some(encoder)
    forwards, backwards = encode(encoder, several), encode(encoder, several[::-1])
    assert np.abs(forwards - backwards[::-1]).max() < NEAR


def test_a_cancelled_request_gives_nothing_and_the_others_all(encoder: LoadedEncoder) -> None:
    engine = EncoderEngine(encoder.compute, EncoderLimits(tokens=20))
    for name in ("kept", "cancelled"):
        engine.add(job(name, some(encoder)))
    engine.step()
    engine.cancel("cancelled")
    engine.cancel("unknown")
    ended = []
    while engine.active:
        ended += engine.step()
    ((api, delta),) = [(output.api, output.delta) for output in ended]
    assert (api, delta.request_id) == ("api-1", "kept")
    assert delta.vectors is not None
    assert np.abs(table(delta.vectors) - encode(encoder, some(encoder))).max() < NEAR


def test_the_encoder_engines_report_counts_waiting_texts(encoder: LoadedEncoder) -> None:
    engine = EncoderEngine(encoder.compute, EncoderLimits(tokens=20))
    engine.add(job("a", some(encoder)))
    engine.step()
    report = engine.report
    assert report["phase"] == "encode"
    assert int(report["waiting"]) + int(report["rows"]) == len(LENGTHS)
    while engine.active:
        engine.step()
    assert engine.report["phase"] == "idle"
    assert engine.report["tokens"] == sum(text.tokens for text in some(encoder))


def test_mlx_may_take_what_the_weights_need_and_what_is_lent(
    encoder: LoadedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ACCELERATOR_PATH, "1")
    before = mx.get_memory_limit(), mx.set_cache_limit(0)
    try:
        engine = EncoderEngine(encoder.compute, EncoderLimits())
        weights = mx.get_memory_limit() - SCRATCH
        assert 0 < weights < 1 << 30
        engine.lend(1 << 30)
        assert mx.get_memory_limit() == weights + (1 << 30) + SCRATCH
        assert mx.set_cache_limit(0) == LEAST_POOL
    finally:
        mx.set_memory_limit(before[0])
        mx.set_cache_limit(before[1])
