"""What one load finds out, the next one need not, as long as nothing has changed that it depends on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shared.models import ModelSource
from shared.settings import Settings
from tests.tiny_model import CHAT_TEMPLATE, make_tiny_llama
from workers.model import kept_findings as module
from workers.model.kept_findings import KeptFindings, kept_findings
from workers.model.load import LoadError
from workers.model.serve_model import load_engine


@dataclass(frozen=True)
class Fact:
    text: str
    number: float


class Finder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> Fact:
        self.asked += 1
        return Fact("seen", 0.1 + self.asked)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "more").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "more" / "chat_template.jinja").write_text("a template")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def kept(folder: Path, digest: str = "weights", *conditions: object, **more: Any) -> KeptFindings:
    return kept_findings(folder.parent / "cache", folder, digest, *conditions, **more)


def test_a_finding_is_found_once_and_then_recalled_as_it_was(folder: Path) -> None:
    find = Finder()
    first = kept(folder).recall("fact", Fact, find)
    assert kept(folder).recall("fact", Fact, find) == first
    assert find.asked == 1
    assert [file.suffix for file in (folder.parent / "cache" / "findings").iterdir()] == [".json"]


@pytest.mark.parametrize("file", ["config.json", "more/chat_template.jinja", "new.json"])
def test_another_content_of_any_file_beside_the_weights_asks_again(folder: Path, file: str) -> None:
    find = Finder()
    kept(folder).recall("fact", Fact, find)
    (folder / file).write_text("changed")
    kept(folder).recall("fact", Fact, find)
    assert find.asked == 2


def test_other_weights_another_condition_or_other_code_ask_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = Finder()
    for asked, findings in enumerate(
        [kept(folder), kept(folder, "others"), kept(folder, "weights", True)], 1
    ):
        findings.recall("fact", Fact, find)
        assert find.asked == asked
    for name in ("_code", "_machine"):
        before = find.asked
        kept(folder).recall("fact", Fact, find)
        monkeypatch.setattr(module, name, lambda: "another")
        kept(folder).recall("fact", Fact, find)
        assert find.asked > before


def test_another_template_of_the_operator_asks_again(folder: Path) -> None:
    find, template = Finder(), folder.parent / "own.jinja"
    for text in ("one", "two"):
        template.write_text(text)
        kept(folder, template=template).recall("fact", Fact, find)
    assert find.asked == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: b"[]",
        lambda content: content[: len(content) // 2],
        lambda content: json.dumps(json.loads(content) | {"found": 3}).encode(),
        lambda content: json.dumps(json.loads(content) | {"found": {"fact": {"text": 1}}}).encode(),
        lambda content: json.dumps(json.loads(content) | {"key": "another"}).encode(),
    ],
)
def test_a_spoiled_file_is_as_if_it_were_not_there(folder: Path, spoil: Any) -> None:
    find = Finder()
    kept(folder).recall("fact", Fact, find)
    [file] = (folder.parent / "cache" / "findings").iterdir()
    file.write_bytes(spoil(file.read_bytes()))
    kept(folder).recall("fact", Fact, find)
    kept(folder).recall("fact", Fact, find)
    assert find.asked == 2


def test_where_nothing_can_be_written_each_load_finds_out_by_itself(folder: Path) -> None:
    (folder.parent / "cache").write_text("a file in place of the folder")
    find = Finder()
    for asked in (1, 2):
        kept(folder).recall("fact", Fact, find)
        assert find.asked == asked


def test_a_failure_is_not_kept(folder: Path) -> None:
    def fails() -> Fact:
        raise LoadError("not now", permanent=False)

    with pytest.raises(LoadError):
        kept(folder).recall("fact", Fact, fails)
    assert kept(folder).recall("fact", Fact, Finder()).text == "seen"


@pytest.mark.slow
def test_a_second_load_tries_nothing_that_the_first_one_tried_until_the_template_changes(
    tmp_path: Path,
) -> None:
    folder = make_tiny_llama(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    source = ModelSource(id="tiny", kind="folder", location=str(folder))
    settings = Settings(cache_dir=tmp_path / "cache")

    def load() -> tuple[list[str], Any]:
        phases: list[str] = []
        served = load_engine(source, settings, lambda phase, *_: phases.append(phase))
        return phases, (served.capabilities, served.digest, served.engine.report["invariance"])

    phases, facts = load()
    assert "check" in phases
    phases, again = load()
    assert "check" not in phases
    assert again == facts
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE + "{# changed #}")
    phases, _ = load()
    assert "check" in phases


def test_what_is_not_worth_keeping_is_found_out_again(folder: Path) -> None:
    find = Finder()
    for asked in (1, 2):
        kept(folder).recall("fact", Fact, find, keeps=lambda fact: fact.number > 9)
        assert find.asked == asked


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_template_whose_analysis_was_cut_short_is_tried_again_by_the_next_load(tmp_path: Path) -> None:
    folder = make_tiny_llama(tmp_path / "model")
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    slow = (
        CHAT_TEMPLATE + "{% for m in messages %}{% if m.tool_calls %}" + endless + "{% endif %}{% endfor %}"
    )
    (folder / "chat_template.jinja").write_text(slow)
    source = ModelSource(id="tiny", kind="folder", location=str(folder))
    settings, trials = Settings(cache_dir=tmp_path / "cache"), list[str]()
    for _ in range(2):
        trials.clear()
        load_engine(source, settings, lambda phase, *_: trials.append(phase))
        assert "check" in trials
