"""A sequence gets the same tokens alone, in a batch, behind a cached prefix, resumed and preempted: for every kind of
model, and with an accelerator's code as with a CPU's.
"""

from typing import Any, get_args

import pytest

from tests.jobs import job
from tests.marks import quick_and_slow
from tests.tiny_model import Kind, make_tiny_model
from tests.workers.engines import LONG, MakeEngine, cached_tokens, ids, play
from workers.device import ACCELERATOR_PATH
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.job import Job
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.sequence import TokenRules

KINDS = (
    "llama",
    "sliding",
    "recurrent",
    "hybrid",
    "experts",
)  # the window has 32 tokens, which prompts exceed
assert set(KINDS) <= set(get_args(Kind))
OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.9, "seed": 6},
    {"temperature": 1.0, "seed": 5, "n": 2},
]
PROMPTS = {"long": LONG[:90], "middling": [(5 * i) % 250 + 3 for i in range(40)], "short": [9, 8, 7]}
TOKENS = 10


@pytest.fixture(scope="module", params=quick_and_slow(("experts",), KINDS[:-1]))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = make_tiny_model(tmp_path_factory.mktemp(request.param) / "model", kind=request.param)
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


@pytest.fixture(params=["a CPU's code", "an accelerator's code"])
def make_engine(
    loaded: LoadedModel, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> MakeEngine:
    monkeypatch.setenv(ACCELERATOR_PATH, "1" if request.param.startswith("an") else "0")
    rules = TokenRules(token_bytes(loaded.tokenizer), frozenset())

    def make(**limits: Any) -> BatchEngine:
        return BatchEngine(loaded.model, rules, vocabulary_size_of(loaded), EngineLimits(**limits))

    return make


def asked(name: str, options: int, **more: Any) -> Job:
    return job(f"{name} {options}", PROMPTS[name], **{"max_tokens": TOKENS, **OPTIONS[options], **more})


@pytest.fixture
def jobs() -> list[Job]:
    return [asked(name, options) for name in PROMPTS for options in range(len(OPTIONS))]


def tokens(make_engine: MakeEngine, jobs: list[Job], **limits: Any) -> dict[tuple[str, int], list[int]]:
    return {key: ids(deltas) for key, deltas in play(make_engine(**limits), jobs, steps_between=1).items()}


def alone(make_engine: MakeEngine, jobs: list[Job]) -> dict[tuple[str, int], list[int]]:
    return {key: drawn for each in jobs for key, drawn in tokens(make_engine, [each]).items()}


def test_sequences_of_every_kind_of_model_get_together_and_in_chunks_what_they_get_alone(
    make_engine: MakeEngine, jobs: list[Job]
) -> None:
    expected = alone(make_engine, jobs)
    assert tokens(make_engine, jobs) == expected
    assert tokens(make_engine, jobs[::-1], chunk=16, max_stall=0.001) == expected


def test_sequences_of_every_kind_of_model_get_behind_a_cached_prefix_what_they_get_alone(
    make_engine: MakeEngine, jobs: list[Job]
) -> None:
    engine, expected = make_engine(), alone(make_engine, jobs)
    first = play(engine, [asked("long", 0)])["long 0", 0]
    turn = job("turn", [*PROMPTS["long"], *ids(first), 40, 41, 42], temperature=0.0)
    again = play(engine, [turn, *jobs], steps_between=1)
    assert cached_tokens(again["turn", 0]) > 0
    assert ids(again["turn", 0]) == alone(make_engine, [turn])["turn", 0]
    assert {key: ids(again[key]) for key in expected} == expected


def test_sequences_of_every_kind_of_model_get_resumed_what_they_get_unbroken(
    make_engine: MakeEngine, jobs: list[Job]
) -> None:
    expected = alone(make_engine, jobs)
    for held in (1, 7):
        resumed = [
            asked(
                name,
                options,
                held=[
                    expected[f"{name} {options}", choice][:held]
                    for choice in range(OPTIONS[options].get("n", 1))
                ],
            )
            for name in PROMPTS
            for options in range(len(OPTIONS))
        ]
        assert tokens(make_engine, resumed) == {key: drawn[held:] for key, drawn in expected.items()}


def test_sequences_of_every_kind_of_model_get_preempted_what_they_get_alone(
    make_engine: MakeEngine,
) -> None:
    """The youngest sequence of the caller that has all batch slots leaves for one that has none."""
    many = [
        job(str(n), LONG[n : n + 20 + 7 * n], caller="many", max_tokens=60, ignore_eos=True, seed=n)
        for n in range(3)
    ]
    few = [
        job(f"few {n}", LONG[n:50], caller="few", max_tokens=20, ignore_eos=True, seed=n) for n in range(2)
    ]
    expected = alone(make_engine, [*many, *few])
    engine, preempted = make_engine(rows=3), list[str]()
    planned = engine._plan

    def plan() -> Any:
        made = planned()
        preempted.extend(made.preempt)
        return made

    engine._plan = plan  # type: ignore[method-assign]
    got: dict[tuple[str, int], list[int]] = {}
    for each in many:
        engine.add(each)
    for step in range(2000):
        if step == 8:
            for each in few:
                engine.add(each)
        for output in engine.step() if engine.active else ():
            got.setdefault((output.delta.request_id, output.delta.choice), []).extend(output.delta.ids)
    assert preempted and not engine.active
    assert got == expected
