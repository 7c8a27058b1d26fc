"""What a client expects the answer to be, as token ids."""

from pathlib import Path

import pytest

from shared.protocol import Generation, Run, Sampling, Submit, TextPrompt
from tests.tiny_model import CONTEXT_LENGTH, make_tiny_llama
from workers.model.load import LoadedModel, inspect, load
from workers.request.prompt import Preparation


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder: Path = make_tiny_llama(tmp_path_factory.mktemp("tiny") / "model")
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


def test_a_prediction_becomes_ids_and_no_more_than_the_context_holds(loaded: LoadedModel) -> None:
    prepare = Preparation(loaded.tokenizer, loaded.context_length, 280)

    def predicted(text: str, *, speculate: bool = True) -> list[int]:
        prompt, sampling = TextPrompt(text="hello"), Sampling(seed=0)
        task = Generation(prompt=prompt, sampling=sampling, prediction=text, speculate=speculate)
        job = prepare(Run(api="a", submit=Submit(request_id="r", attempt=1, model="m", task=task)))
        assert job.speculates == speculate
        return job.prediction

    assert loaded.tokenizer.decode(predicted("the rain")) == "the rain"
    assert len(predicted("a b " * 10_000)) == CONTEXT_LENGTH
    assert predicted("the rain", speculate=False) == []
    assert predicted("") == []
