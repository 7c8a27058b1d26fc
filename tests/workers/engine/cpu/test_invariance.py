"""The reported batch invariance is measured with the model's own layers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.linear import Linear

from shared.settings import Settings
from tests.exactness import exact, random
from tests.marks import quick_and_slow
from tests.tiny_model import Kind, make_tiny_model
from workers.engine.cpu import invariance as module
from workers.engine.cpu.install import Invariance
from workers.engine.cpu.invariance import Layer, invariance, linear_of, measure_invariance
from workers.engine.cpu.lm_head import LmHead
from workers.engine.cpu.model_patches import patch_models
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import serve_model


def tiny(folder: Path, kind: Kind) -> LoadedModel:
    made = make_tiny_model(folder / kind, kind)
    return load(made, inspect(made), lambda phase, done, total: None)


@pytest.mark.parametrize("broken", [1, 3, 45])
@pytest.mark.parametrize("inner", [32, 576])
def test_a_layer_that_differs_at_one_number_of_rows_is_not_exact(
    inner: int, broken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def otherwise(layer: Linear, x: mx.array) -> mx.array:
        products: mx.array = x @ layer.weight.T
        exactly = mx.floor(products * 0 + 1) * mx.arange(x.shape[0])[:, None]
        return exactly + (1e-7 if x.shape[0] == broken else 0)

    layer = linear_of(random(64, inner))
    monkeypatch.setattr(module, "linear", otherwise)
    assert not module._layer_is_exact(layer)
    monkeypatch.setattr(module, "linear", lambda layer, x: mx.zeros((x.shape[0], 64)))
    assert module._layer_is_exact(layer)


def test_a_model_with_inexact_attention_is_measured_as_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_attention_is_exact", lambda: False)
    assert invariance([]) == "rounding"


@pytest.mark.parametrize("kind", quick_and_slow(("recurrent",), ("sliding", "experts")))
def test_a_model_with_layers_that_were_not_compared_is_rounding(tmp_path: Path, kind: Kind) -> None:
    patch_models()
    assert measure_invariance(tiny(tmp_path, kind).model) == "rounding"


def test_the_engine_reports_the_measured_invariance_of_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny(tmp_path, "llama")
    measured: list[Any] = []

    def measure(layers: Iterable[Layer]) -> Invariance:
        measured.append(list(layers))
        return "exact"

    monkeypatch.setattr(module, "invariance", measure)
    engine = serve_model(loaded, Settings()).engine
    assert engine.report["invariance"] == "exact"
    shapes = {layer.weight.shape for layer in measured[0]}
    assert shapes >= {(32, 32), (16, 32), (64, 32), (32, 64)}


def test_tests_expect_the_exactness_that_the_server_measures() -> None:
    assert exact() == (invariance([linear_of(random(576, 576)), LmHead(random(512, 576))]) == "exact")
