"""The draft model that a table names: loaded with its model, or refused by the name of its key."""

from pathlib import Path
from typing import Any

import pytest

from shared.model_table import ModelTable
from shared.models import ModelSource
from shared.settings import Settings
from tests.jobs import job
from tests.marks import quick_and_slow
from tests.tiny_model import CHAT_TEMPLATE, make_tiny_llama, make_tiny_model
from tests.workers.engines import ids, play
from tests.workers.model.folders import edit_json
from workers.engine.engine import BatchEngine
from workers.job import Job, Served
from workers.model.draft import unlike
from workers.model.inspection import inspected
from workers.model.load import inspect, load
from workers.model.load_error import LoadError
from workers.model.serve_model import serve_model


def answer(of: Served[Any], one: Job) -> list[int]:
    assert isinstance(of.engine, BatchEngine)
    return ids(play(of.engine, [one])[one.request_id, 0])


def served(folder: Path, draft: Path | str | None, **settings: Any) -> Served[Any]:
    loaded = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)
    said = Settings(cache_dir=folder.parent / "cache", prompt_disk_gb=0, **{"speculation": "on", **settings})
    return serve_model(loaded, said, ModelTable(draft=None if draft is None else str(draft)))


def refusal(folder: Path, draft: Path | str) -> str:
    with pytest.raises(LoadError) as caught:
        served(folder, draft)
    assert caught.value.permanent
    return caught.value.reason


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model") / "model")


def test_a_model_with_a_draft_answers_as_without_and_takes_the_memory_of_both(
    folder: Path, tmp_path: Path
) -> None:
    draft = make_tiny_llama(tmp_path / "draft", seed=3)
    plain, guessing = served(folder, None), served(folder, draft)
    one = job("a", [*range(20, 40)], max_tokens=40, ignore_eos=True, temperature=1.0)
    assert answer(guessing, one) == answer(plain, one)
    assert int(guessing.engine.report["drafted_by_model"]) > 0
    assert guessing.digest == plain.digest
    assert guessing.context_bytes == 2 * plain.context_bytes
    assert guessing.capabilities and plain.capabilities
    assert guessing.capabilities.bytes == 2 * plain.capabilities.bytes


def test_where_nothing_is_guessed_no_draft_is_loaded(folder: Path) -> None:
    assert "speculation" in served(folder, "/none", speculation="off").engine.report


@pytest.mark.slow
def test_a_draft_with_other_tokens_is_refused_by_the_name_of_its_key_and_the_first_of_them(
    folder: Path, tmp_path: Path
) -> None:
    draft = make_tiny_llama(tmp_path / "draft")
    edit_json(draft / "tokenizer_config.json", bos_token="<|begin|>")
    said = refusal(folder, draft)
    assert said.startswith("The draft of this model (")
    assert "it has not the tokens of the model that it would guess for" in said
    assert "'<|begin|>' is no token there and id 269 in the draft" in said


@pytest.mark.slow
def test_a_second_load_tries_no_draft_again_until_its_folder_changes(folder: Path, tmp_path: Path) -> None:
    draft = make_tiny_llama(tmp_path / "draft", seed=3)
    (draft / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    loaded = load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)

    def tried() -> bool:
        phases: list[str] = []
        settings = Settings(cache_dir=tmp_path / "cache", prompt_disk_gb=0, speculation="on")
        made = serve_model(
            loaded, settings, ModelTable(draft=str(draft)), lambda phase, *_: phases.append(phase)
        )
        assert made.engine.report["speculation"] == "on"
        return "check" in phases

    assert [tried(), tried()] == [True, False]
    (draft / "chat_template.jinja").write_text(CHAT_TEMPLATE + "{# changed #}")
    assert [tried(), tried()] == [True, False]
    make_tiny_llama(draft, seed=4)
    assert [tried(), tried()] == [True, False]


@pytest.mark.parametrize("kind", quick_and_slow((), ("sliding", "recurrent")))
def test_a_draft_whose_caches_cannot_be_taken_back_is_refused(
    folder: Path, tmp_path: Path, kind: Any
) -> None:
    assert "a wrong guess cannot be taken back" in refusal(folder, make_tiny_model(tmp_path / "draft", kind))


def test_a_draft_that_is_not_there_is_refused_and_the_text_says_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is not a folder" in refusal(folder, folder.parent / "nowhere")
    said = refusal(folder, "nobody/nothing-here")
    assert "nobody/nothing-here is not whole on this disk" in said
    assert "a table of its own" in said


def test_before_a_load_the_weights_of_the_draft_count_as_well(folder: Path, tmp_path: Path) -> None:
    draft = ModelSource("d", "folder", str(make_tiny_llama(tmp_path / "draft")))
    model = ModelSource("m", "folder", str(folder))
    assert inspected(model, tmp_path, draft).weights == 2 * inspected(model, tmp_path).weights
    missing = inspected(model, tmp_path, ModelSource("d", "folder", str(tmp_path / "none")))
    assert missing.reason.startswith("Its draft: none is not a folder")


def test_vocabularies_disagree_at_their_lowest_unlike_id() -> None:
    assert unlike({"a": 1, "b": 2}, {"a": 1, "b": 2}) == ""
    assert unlike({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 9}) == "'b' is id 2 there and id 3 in the draft"
    assert unlike({"a": 1, "c": 7}, {"a": 1}) == "'c' is id 7 there and no token in the draft"
