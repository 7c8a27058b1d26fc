"""The tiny model, its grammars and an engine, for every test of this folder."""

import pytest

from tests.tiny_model import make_tiny_llama
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.grammars.grammar import Grammars, grammars_for
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.sequence import TokenRules


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


@pytest.fixture(scope="module")
def grammars(loaded: LoadedModel) -> Grammars:
    found = grammars_for(loaded.tokenizer, vocabulary_size_of(loaded))
    assert found is not None
    return found


@pytest.fixture
def engine(loaded: LoadedModel) -> BatchEngine:
    rules = TokenRules(token_bytes(loaded.tokenizer), frozenset(loaded.tokenizer.eos_token_ids))
    return BatchEngine(loaded.model, rules, vocabulary_size_of(loaded), EngineLimits())
