"""What runs on an accelerator gives the answers that a CPU's own path gives."""

from dataclasses import replace
from typing import Any

import pytest

from shared.protocol import Delta, Grammar
from tests.inner_pytest import passes
from tests.jobs import job
from tests.workers.engines import LONG, MakeEngine, ids, play
from workers.device import ACCELERATOR_PATH, has_accelerator
from workers.engine.findings import find
from workers.engine.scheduling.plan import Costs
from workers.grammars.grammar import CompiledGrammar, grammars_for
from workers.job import Job
from workers.model.load import LoadedModel
from workers.model.serve_model import vocabulary_size_of

ENGINE = "tests/workers/engine"
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0, "logprobs": 2},
    {"temperature": 0.8, "top_p": 0.9, "seed": 6},
    {"temperature": 1.0, "seed": 5, "n": 2},
    {"temperature": 1.2, "top_k": 40, "min_p": 0.02, "frequency_penalty": 0.7, "seed": 7, "logprobs": 3},
    {"temperature": 0.7, "repetition_penalty": 1.3, "logit_bias": {33: 4.0}, "min_tokens": 6, "seed": 8},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "yy"]}}}


def jobs(loaded: LoadedModel) -> list[Job]:
    prompts = (LONG * 5, LONG[:40], [9, 8, 7])
    return [
        *(
            job(f"{p}-{o}", prompt, max_tokens=8, ignore_eos=True, **options)
            for p, prompt in enumerate(prompts)
            for o, options in enumerate(OPTIONS)
        ),
        *(
            job(f"{p}-grammar", prompt, max_tokens=20, seed=p, grammar=grammar(loaded))
            for p, prompt in enumerate(prompts)
        ),
    ]


def grammar(loaded: LoadedModel) -> CompiledGrammar:
    grammars = grammars_for(loaded.tokenizer, vocabulary_size_of(loaded))
    assert grammars
    return CompiledGrammar(grammars.text(Grammar(json_schema=SCHEMA)), grammars.eos)


def best(deltas: list[Delta]) -> list[list[int]]:
    """The ids of the most likely tokens, where they were asked for."""
    return [[each.id for each in entry.top] for delta in deltas for entry in delta.logprobs or ()]


def test_the_accelerators_path_gives_the_tokens_of_the_cpus(
    make_engine: MakeEngine, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of those that were kept and read again, and with every kind of draw, mask and penalty in one batch."""
    some = jobs(loaded)
    again = [replace(each, request_id=f"{each.request_id} again") for each in some[::3]]
    here = make_engine()
    expected = {**play(here, some, steps_between=1), **play(here, again)}
    monkeypatch.setenv(ACCELERATOR_PATH, "1")
    assert has_accelerator()
    there = make_engine(launches_ahead=True)
    found = {**play(there, some, steps_between=1), **play(there, again)}
    assert {key: ids(deltas) for key, deltas in found.items()} == {
        key: ids(deltas) for key, deltas in expected.items()
    }
    assert {key: best(deltas) for key, deltas in found.items()} == {
        key: best(deltas) for key, deltas in expected.items()
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
