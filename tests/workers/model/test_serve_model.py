"""A loaded model becomes an engine within the memory budget."""

import importlib
import logging
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.models import base

from shared.settings import Settings
from tests.tiny_model import Kind, make_tiny_llama, make_tiny_model
from workers.engine.cpu.attention import attention
from workers.model import serve_model as module
from workers.model.load import inspect, load
from workers.model.serve_model import serve_model
from workers.request.prompt import Preparation


@pytest.mark.parametrize("short", [False, True])
def test_the_log_says_when_the_budget_leaves_less_context_than_the_model_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    folder = make_tiny_llama(tmp_path / "m")
    loaded = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
    if short:
        monkeypatch.setattr(module, "weight_bytes", lambda loaded: 8 * 10**9)
        monkeypatch.setattr(module, "SMALLEST_KV", 100_000)
    with caplog.at_level(logging.WARNING):
        served = serve_model(loaded, Settings())
    assert (served.context_length < loaded.context_length) == short
    assert (f"memory for {served.context_length} tokens of context, not 512" in caplog.text) == short


def test_on_a_cpu_models_use_the_cpu_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_llama(tmp_path / "m")
    loaded = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
    code: Any = importlib.import_module("mlx_lm.models.llama")
    monkeypatch.setattr(code, "scaled_dot_product_attention", base.scaled_dot_product_attention)
    for accelerator in (True, False):
        monkeypatch.setattr(module, "has_accelerator", lambda there=accelerator: there)
        serve_model(loaded, Settings())
        assert (code.scaled_dot_product_attention is attention) != accelerator


@pytest.mark.parametrize(("kind", "finds"), [("llama", False), ("sliding", True), ("recurrent", True)])
def test_checkpoints_are_computed_only_for_caches_that_cannot_be_cut_anywhere(
    tmp_path: Path, kind: Kind, finds: bool
) -> None:
    folder = make_tiny_model(tmp_path / "m", kind)
    prepare = serve_model(
        load(folder, inspect(folder), lambda phase, done, total: None, trusted=True), Settings()
    ).prepare
    assert isinstance(prepare, Preparation)
    assert prepare.finds_checkpoints == finds
