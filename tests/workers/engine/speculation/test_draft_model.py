"""A second model that guesses: right, wrong or now and then right, it changes no answer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map

from tests.jobs import job
from tests.marks import quick_and_slow
from tests.tiny_model import CONTEXT_LENGTH, make_tiny_llama
from tests.workers.engine.speculation.test_verification import engine_of, plain, without_bits
from tests.workers.engine.test_engine import OPTIONS, PROMPTS, filtered, grammars, matrix  # noqa: F401
from tests.workers.engines import LONG, ids, play, text
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.engine.speculation.depths import WidthCosts
from workers.engine.speculation.draft_model import DraftModel
from workers.engine.speculation.drafts import Draft
from workers.engine.speculation.speculator import FEW, Speculator
from workers.grammars.grammar import Grammars
from workers.job import Job
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import vocabulary_size_of
from workers.sequence import TokenSequence

CHUNK = 256

EngineWith = Callable[..., BatchEngine]


class Eager(Speculator):
    """Verifies all that may be guessed, whatever passes take."""

    def _chosen(self, sequences: Sequence[TokenSequence], offers: Sequence[Draft]) -> list[int]:
        return [len(offer.sources) for offer in offers]


def tiny(folder: Path, seed: int = 0) -> LoadedModel:
    make_tiny_llama(folder, seed=seed)
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drafts")


@pytest.fixture(scope="session")
def loaded(folders: Path) -> LoadedModel:
    return tiny(folders / "model")


@pytest.fixture(scope="session")
def equal(folders: Path) -> LoadedModel:
    return tiny(folders / "equal")


@pytest.fixture(scope="session")
def other(folders: Path) -> LoadedModel:
    return tiny(folders / "other", seed=7)


@pytest.fixture(scope="session")
def alike(folders: Path) -> LoadedModel:
    """Near enough to agree now and then."""
    near = tiny(folders / "alike")
    mx.random.seed(3)
    noisy = tree_map(
        lambda weights: weights + 0.06 * mx.random.normal(weights.shape), near.model.parameters()
    )
    near.model.update(noisy)
    return near


def drafting(of: LoadedModel, **options: Any) -> DraftModel:
    width = vocabulary_size_of(of)
    bounds = {"vocabulary": width, "readable": width, "context": CONTEXT_LENGTH, "chunk": CHUNK}
    return DraftModel(of.model, **{**bounds, **options})


@pytest.fixture(params=quick_and_slow((False,), (True,)), ids=lambda ahead: "ahead" if ahead else "in turn")
def engine_with(loaded: LoadedModel, request: pytest.FixtureRequest) -> EngineWith:
    def make(draft: DraftModel | None, **limits: Any) -> BatchEngine:
        speculator = Eager(lambda: WidthCosts(1.0, 0.0), draft) if draft else None
        mode = {} if draft else {"speculation": "off"}
        limited = EngineLimits(**{**mode, **limits})
        return engine_of(loaded, limited, launches_ahead=request.param, speculator=speculator, draft=draft)

    return make


@pytest.mark.parametrize("kind", quick_and_slow(("alike",), ("equal", "other")))
def test_a_draft_model_changes_no_answer_alone_or_in_company(
    engine_with: EngineWith, kind: str, request: pytest.FixtureRequest
) -> None:
    draft: LoadedModel = request.getfixturevalue(kind)
    jobs = matrix()[::3]  # each prompt and each way to draw among them
    expected = play(engine_with(None), jobs, steps_between=2)
    engine = engine_with(drafting(draft))
    answers = play(engine, jobs, steps_between=2)
    assert without_bits(plain(answers)) == without_bits(plain(expected))
    assert int(engine.report["drafted_by_model"]) > 0


@pytest.mark.parametrize(
    "sampling", quick_and_slow(({"temperature": 0.0},), ({"temperature": 1.0, "seed": 5},))
)
def test_the_model_itself_is_right_another_one_is_not_and_a_like_one_is_now_and_then(
    engine_with: EngineWith,
    equal: LoadedModel,
    other: LoadedModel,
    alike: LoadedModel,
    sampling: dict[str, Any],
) -> None:
    def right(draft: LoadedModel) -> float:
        engine = engine_with(drafting(draft))
        play(engine, [job("a", PROMPTS[1], max_tokens=60, ignore_eos=True, **sampling)])
        return int(engine.report["accepted_of_model"]) / int(engine.report["drafted_by_model"])

    assert right(equal) > 0.95
    assert right(other) < 0.2
    assert right(other) < right(alike) < right(equal)


@pytest.mark.slow
def test_a_grammar_and_calls_are_verified_token_by_token(
    engine_with: EngineWith,
    alike: LoadedModel,
    grammars: Grammars,  # noqa: F811
) -> None:
    def jobs() -> list[Job]:
        return [
            job("a", PROMPTS[2], **filtered(grammars, "thinking, then call")),
            job("b", PROMPTS[1], max_tokens=40, temperature=1.0, stop=["e", "th"], n=2),
        ]

    expected = play(engine_with(None), jobs())
    assert without_bits(plain(play(engine_with(drafting(alike)), jobs()))) == without_bits(plain(expected))


@pytest.mark.parametrize("options", quick_and_slow((OPTIONS[0],), (OPTIONS[1], OPTIONS[2])))
def test_an_answer_that_was_cut_off_goes_on_with_a_draft_model(
    engine_with: EngineWith, alike: LoadedModel, options: dict[str, Any]
) -> None:
    options = {"max_tokens": 30, "ignore_eos": True, **options}
    expected = play(engine_with(None), [job("a", PROMPTS[2], **options)])
    for cut in (1, 13, 29):
        held = job("a", PROMPTS[2], held=[ids(expected["a", 0])[:cut]], **options)
        resumed = play(engine_with(drafting(alike)), [held])
        assert ids(resumed["a", 0]) == ids(expected["a", 0])[cut:]
        assert text(resumed["a", 0]) == text(expected["a", 0][cut:])


def test_what_was_guessed_wrong_is_taken_back_from_the_draft_models_keys(loaded: LoadedModel) -> None:
    def guessed(*said_with_guesses: list[int]) -> list[int]:
        """The last draft, when before it each time so many ids were guessed and then others came."""
        draft = drafting(loaded)
        sequence = TokenSequence(job("a", PROMPTS[1], max_tokens=50, temperature=0.0), 0, rules_of(loaded))
        draft.read([sequence])
        for ahead in said_with_guesses:
            draft.draft(sequence, ahead, 4)
            sequence.push(70, None)
        while len(sequence.ids) < 3:
            sequence.push(70, None)
        return draft.draft(sequence, [], 6)

    assert guessed([90, 91, 92], [93], [94, 95]) == guessed([70, 70], [90]) == guessed()


def test_a_long_prompt_is_read_a_part_in_each_step_before_anything_is_guessed(
    engine_with: EngineWith, equal: LoadedModel
) -> None:
    engine = engine_with(drafting(equal, chunk=16))
    engine.add(job("a", LONG, max_tokens=30, ignore_eos=True, temperature=0.0, speculates=True))
    guessed = []
    while engine.active:
        engine.step()
        guessed.append(int(engine.report.get("drafted_by_model", 0)))
    begun = next(step for step, count in enumerate(guessed) if count)
    assert begun >= len(LONG) // 16 - 1


def test_the_keys_of_a_draft_model_are_counted_and_gone_with_the_answer(
    engine_with: EngineWith, loaded: LoadedModel, equal: LoadedModel
) -> None:
    plain, engine = engine_with(None), engine_with(drafting(equal))
    assert engine.budget.cost.bytes(100) == 2 * plain.budget.cost.bytes(100)
    sizes = []
    for each in (plain, engine):
        each.add(job("a", PROMPTS[1], max_tokens=100, ignore_eos=True))
        for _ in range(5):
            each.step()
        sizes.append(int(each.report["kv_bytes"]))
    assert sizes[1] > sizes[0]
    play(engine, [])
    assert engine.report["kv_bytes"] == 0


def test_a_text_too_long_for_the_draft_model_or_with_tokens_that_it_lacks_goes_on_without_it(
    engine_with: EngineWith, equal: LoadedModel
) -> None:
    def guessed(**bounds: int) -> int:
        engine = engine_with(drafting(equal, **bounds))
        played = play(engine, [job("a", PROMPTS[1], max_tokens=60, ignore_eos=True, temperature=0.0)])
        assert len(ids(played["a", 0])) == 60
        return int(engine.report["drafted_by_model"])

    length = len(PROMPTS[1])
    assert guessed(context=length) == guessed(readable=max(PROMPTS[1])) == 0
    assert 0 < guessed(context=length + 20) < guessed()


class Counted(list[int]):
    """Counts its ids that are copied or looked at."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        super().__init__(ids)
        self.touched = 0

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        self.touched += len(found) if isinstance(found, list) else 1
        return found

    def __iter__(self) -> Iterator[int]:
        for id in super().__iter__():
            self.touched += 1
            yield id


def test_with_each_step_the_draft_model_touches_only_the_ids_that_are_new(loaded: LoadedModel) -> None:
    draft = drafting(loaded, chunk=64)
    prompt = Counted(LONG)
    one = replace(job("a", LONG, max_tokens=200, temperature=0.0), prompt=prompt)
    sequence = TokenSequence(one, 0, rules_of(loaded))
    sequence.ids = said = Counted()
    while not draft.most(sequence):
        draft.read([sequence])
    draft.read([sequence])
    read, steps = prompt.touched, 30
    assert len(prompt) <= read <= 2 * len(prompt)  # once to see that it can be read, and once to read it
    for step in range(steps):
        draft.read([sequence])
        assert draft.most(sequence)
        guessed = draft.draft(sequence, [], 4)
        sequence.push(guessed[0] if step % 2 else 70, None)
    assert prompt.touched - read <= 2
    assert said.touched <= 8 * steps


def test_beside_many_sequences_no_draft_model_is_asked(engine_with: EngineWith, equal: LoadedModel) -> None:
    engine = engine_with(drafting(equal))
    play(engine, [job("a", PROMPTS[1], max_tokens=8, ignore_eos=True, n=FEW + 1)])
    assert not engine.report["drafted_by_model"]


def test_a_model_that_is_too_dear_is_not_asked_and_after_some_time_tried_again(equal: LoadedModel) -> None:
    draft = drafting(equal)
    draft.price = 0.5
    speculator = Speculator(lambda: WidthCosts(0.1, 0.001), draft)
    speculator.decoded(1, 0.1)
    sequence = TokenSequence(job("a", [*range(20, 40)], max_tokens=500), 0, rules_of(equal))
    waited = 0
    while not speculator.propose([sequence], lambda place: 16):
        waited += 1
        assert waited < 1000
    assert waited > 10
    assert draft.price < 0.5


def rules_of(loaded: LoadedModel) -> Any:
    from workers.output.vocabulary import token_bytes
    from workers.sequence import TokenRules

    return TokenRules(token_bytes(loaded.tokenizer), frozenset(loaded.tokenizer.eos_token_ids))
