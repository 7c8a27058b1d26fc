"""The engine on tiny random models of each kind of cache."""

from typing import Any

import pytest

from tests.marks import quick_and_slow
from tests.tiny_model import make_tiny_model
from tests.workers.engines import MakeEngine
from workers.device import ACCELERATOR_PATH, has_accelerator
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.engine.kv.mlx_caches import is_full_attention, new_cache
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.sequence import TokenRules


@pytest.fixture(scope="session", params=quick_and_slow(("llama",), ("sliding", "recurrent", "hybrid")))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make_tiny_model(tmp_path_factory.mktemp(request.param) / "model", kind=request.param)
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


WAYS = ("in turn", "ahead", "accelerator")


@pytest.fixture(
    params=quick_and_slow(WAYS[2:], WAYS[:2]) if has_accelerator() else quick_and_slow(WAYS[:1], WAYS[1:])
)
def make_engine(
    loaded: LoadedModel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> MakeEngine:
    """Of engines that launch their passes as on a CPU, or ahead, or that do all as on an accelerator."""
    if request.param == "accelerator":
        monkeypatch.setenv(ACCELERATOR_PATH, "1")
    rules = TokenRules(token_bytes(loaded.tokenizer), frozenset(loaded.tokenizer.eos_token_ids))

    def make(*, launches_ahead: bool = request.param != "in turn", **limits: Any) -> BatchEngine:
        return BatchEngine(
            loaded.model,
            rules,
            vocabulary_size_of(loaded),
            EngineLimits(**limits),
            launches_ahead=launches_ahead,
        )

    return make


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Launching ahead with a CPU's kernels, which no server does, is played with one kind of cache.

    The accelerator's way launches ahead with all of them.
    """
    left_out = [item for item in items if played_otherwise(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not played_otherwise(item)]


def played_otherwise(item: pytest.Item) -> bool:
    called = getattr(item, "callspec", None)
    params = called.params if called else {}
    return params.get("make_engine") == "ahead" and params.get("loaded") not in (None, "llama")


@pytest.fixture
def unread(loaded: LoadedModel) -> int:
    """Tokens that are left of a prompt for the pass that gives the first token."""
    return 0 if is_full_attention(new_cache(loaded.model)) else 1
