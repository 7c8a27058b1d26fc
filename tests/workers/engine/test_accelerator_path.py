"""What runs on an accelerator gives the answers that a CPU's own path gives."""

from typing import Any

import pytest

from tests.inner_pytest import passes
from tests.jobs import job
from tests.workers.engines import LONG, MakeEngine, ids, play
from workers.device import ACCELERATOR_PATH, has_accelerator
from workers.engine.findings import find
from workers.engine.scheduling.plan import Costs
from workers.job import Job
from workers.model.load import LoadedModel
from workers.model.serve_model import vocabulary_size_of

ENGINE = "tests/workers/engine"
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9, "seed": 6},
    {"temperature": 1.0, "seed": 5, "n": 2},
]


def jobs() -> list[Job]:
    prompts = (LONG, LONG[:40], [9, 8, 7])
    return [
        job(f"{p}-{o}", prompt, max_tokens=8, ignore_eos=True, **options)
        for p, prompt in enumerate(prompts)
        for o, options in enumerate(OPTIONS)
    ]


def test_the_accelerators_path_gives_the_tokens_of_the_cpus(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = play(make_engine(), jobs(), steps_between=1)
    monkeypatch.setenv(ACCELERATOR_PATH, "1")
    assert has_accelerator()
    there = play(make_engine(launches_ahead=True), jobs(), steps_between=1)
    assert {key: ids(deltas) for key, deltas in there.items()} == {
        key: ids(deltas) for key, deltas in here.items()
    }


def test_an_accelerators_passes_are_measured_beyond_the_knee_and_a_cpus_have_none(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ACCELERATOR_PATH, "0")
    floors = [passes_of(loaded).floor]
    monkeypatch.setenv(ACCELERATOR_PATH, "1")
    floors.append(passes_of(loaded).floor)
    assert floors[0] == 0 < floors[1]


def passes_of(loaded: LoadedModel) -> Costs:
    costs = find(loaded.model, vocabulary_size_of(loaded)).costs
    assert costs is not None
    return costs


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "tests",
    [
        [f"{ENGINE}/{name}" for name in ("kv", "sampling", "speculation", "disk")],
        ["tests/workers/grammars"],
    ],
    ids=["keys, draws, guesses and disk", "grammars"],
)
def test_the_engines_tests_pass_with_the_code_for_an_accelerator(tests: list[str]) -> None:
    """Those of folders that make engines of their own; ``make_engine`` makes one for an accelerator by itself."""
    passes(["-m", "not slow", *tests], **{ACCELERATOR_PATH: "1"})
