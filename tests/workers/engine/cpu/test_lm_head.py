"""The blocked lm_head equals the layer it replaces up to rounding and is batch-invariant."""

from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx_lm.models.llama import Model, ModelArgs

from tests.exactness import random, rounding_of_product, same
from workers.engine.cpu.lm_head import BLOCK, LEAST, LmHead, install_lm_head


def close(one: mx.array, other: mx.array) -> bool:
    return one.shape == other.shape and bool(mx.allclose(one, other, rtol=1e-4, atol=1e-3))


@pytest.mark.parametrize("outputs", [10 * BLOCK, 10 * BLOCK + 1, 11 * BLOCK - 1])
@pytest.mark.parametrize("inner", [16, 320, 321, 576, 1000])
def test_the_blocked_lm_head_equals_the_linear_layer_and_the_embedding_it_replaces(
    outputs: int, inner: int
) -> None:
    weight, bias, x = random(outputs, inner), random(outputs), random(2, 20, inner)
    assert close(LmHead(weight).as_linear(x), x @ weight.T)
    assert close(LmHead(weight, bias)(x), x @ weight.T + bias)
    ids = mx.array([[0, 1, BLOCK, outputs - 1]])
    assert mx.array_equal(LmHead(weight)(ids), weight[ids])
    assert mx.array_equal(LmHead(weight).weight, weight)


def test_the_blocked_lm_head_is_batch_invariant() -> None:
    weight, x = random(12_288, 576), random(100, 576)
    head, within = LmHead(weight), rounding_of_product(x, weight)
    every = head.as_linear(x)
    for rows in [*range(1, 36), 64]:
        assert same(head.as_linear(x[:rows]), every[:rows], within[:rows])


def llama(vocabulary: int, *, tied: bool) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "num_attention_heads": 2}
    args: dict[str, Any] = {"model_type": "llama", "rms_norm_eps": 1e-5, "vocab_size": vocabulary, **sizes}
    model = Model(ModelArgs(**args, tie_word_embeddings=tied))
    mx.eval(model.parameters())
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_replacing_the_lm_head_of_a_model_keeps_its_logits(tied: bool) -> None:
    model, ids = llama(LEAST, tied=tied), mx.array([[5, 6, 7]])
    before = model(ids)
    size = sum(array.nbytes for array in model.parameters()["model"]["embed_tokens"].values())
    install_lm_head(model)
    assert close(model(ids), before)
    head = model.model.embed_tokens if tied else model.lm_head
    assert isinstance(head, LmHead)
    assert sum(piece.nbytes for piece in head.pieces) == size
    assert tied or type(model.model.embed_tokens) is Embedding


def test_a_small_or_low_precision_lm_head_is_not_replaced() -> None:
    small, half = llama(LEAST - 1, tied=False), llama(LEAST, tied=True)
    half.set_dtype(mx.float16)
    install_lm_head(small)
    install_lm_head(half)
    assert type(small.lm_head) is Linear
    assert type(half.model.embed_tokens) is Embedding
