"""Guesses change no answer: with any guesses, at any depth, in any company, the engine gives what it gives without."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.jobs import job
from tests.marks import quick_and_slow
from tests.tiny_model import Kind, make_tiny_model
from tests.workers.engine.speculation.scripted import Guess, Played, Scripted, noise, right, wrong
from tests.workers.engine.test_engine import OPTIONS, PROMPTS, filtered, grammars, matrix  # noqa: F401
from tests.workers.engines import MakeEngine, ids, play, text
from workers.engine.engine import BatchEngine
from workers.engine.engine_limits import EngineLimits
from workers.engine.findings import EngineFindings
from workers.engine.speculation.depths import WidthCosts
from workers.engine.speculation.speculator import Speculator
from workers.grammars.grammar import Grammars
from workers.job import Job
from workers.model.load import LoadedModel, inspect, load
from workers.model.serve_model import vocabulary_size_of
from workers.output.vocabulary import token_bytes
from workers.sequence import TokenRules


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return loaded_tiny(tmp_path_factory, "llama")


def loaded_tiny(tmp_path_factory: pytest.TempPathFactory, kind: Kind) -> LoadedModel:
    folder = make_tiny_model(tmp_path_factory.mktemp(kind) / "model", kind)
    return load(folder, inspect(folder), lambda phase, done, total: None, trusted=True)


def engine_of(loaded: LoadedModel, limits: EngineLimits, **more: Any) -> BatchEngine:
    rules = TokenRules(token_bytes(loaded.tokenizer), frozenset(loaded.tokenizer.eos_token_ids))
    return BatchEngine(loaded.model, rules, vocabulary_size_of(loaded), limits, **more)


@pytest.fixture(params=quick_and_slow((False,), (True,)), ids=lambda ahead: "ahead" if ahead else "in turn")
def engine_with(loaded: LoadedModel, request: pytest.FixtureRequest) -> MakeEngine:
    def make(speculator: Speculator | None, **limits: Any) -> BatchEngine:
        return engine_of(loaded, EngineLimits(**limits), launches_ahead=request.param, speculator=speculator)

    return make


def plain(played: Played) -> dict[tuple[str, int], Any]:
    """Ids, text, log-probabilities and the finish of each choice."""
    return {
        key: (
            *(ids(deltas), text(deltas)),
            [(one.id, one.logprob, one.top) for delta in deltas for one in delta.logprobs or []],
            deltas[-1].finish,
        )
        for key, deltas in played.items()
    }


def without_bits(answers: dict[tuple[str, int], Any]) -> dict[tuple[str, int], Any]:
    """Where rounding is what is promised, log-probabilities may differ in the last bits."""
    return {key: (*some[:2], [one[0] for one in some[2]], some[3]) for key, some in answers.items()}


@pytest.mark.parametrize("depth", quick_and_slow((5,), (1, 2, 3, 4, 15)))
@pytest.mark.parametrize("guess", quick_and_slow((right, noise), (wrong,)))
def test_guesses_change_no_answer_at_any_depth_alone_or_in_company(
    engine_with: MakeEngine,
    guess: Callable[[Played, int], Guess],
    depth: int,
) -> None:
    expected = play(engine_with(None, speculation="off"), matrix(), steps_between=2)
    speculator = Scripted(guess(expected, depth))
    answers = play(engine_with(speculator), matrix(), steps_between=2)
    assert without_bits(plain(answers)) == without_bits(plain(expected))
    assert speculator.counts.drafted > 0
    if guess in (right, wrong):
        assert speculator.counts.acceptance == (guess is right)


@pytest.mark.parametrize("guess", quick_and_slow((noise,), (right, wrong)))
@pytest.mark.parametrize("kind", quick_and_slow(("thinking, then call",), ("grammar", "call")))
def test_grammars_and_calls_are_verified_token_by_token(
    engine_with: MakeEngine,
    grammars: Grammars,  # noqa: F811
    guess: Callable[[Played, int], Guess],
    kind: str,
) -> None:
    def jobs() -> list[Job]:
        return [
            job("a", PROMPTS[2], **filtered(grammars, kind)),
            job("b", PROMPTS[1], max_tokens=40, temperature=1.0, stop=["e", "th"]),
        ]

    expected = play(engine_with(None, speculation="off"), jobs())
    answers = play(engine_with(Scripted(guess(expected, 9))), jobs())
    assert without_bits(plain(answers)) == without_bits(plain(expected))


@pytest.mark.parametrize("options", quick_and_slow((OPTIONS[0], OPTIONS[3]), (*OPTIONS[1:3], *OPTIONS[4:6])))
def test_an_answer_that_was_cut_off_goes_on_with_guesses(
    engine_with: MakeEngine, options: dict[str, Any]
) -> None:
    options = {"max_tokens": 30, "ignore_eos": True, **options}
    expected = play(engine_with(None, speculation="off"), [job("a", PROMPTS[2], **options)])
    for cut in (1, 13, 29):
        held = job("a", PROMPTS[2], held=[ids(expected["a", 0])[:cut]], **options)
        resumed = play(engine_with(Scripted(noise(expected, 6))), [held])
        assert ids(resumed["a", 0]) == ids(expected["a", 0])[cut:]
        assert text(resumed["a", 0]) == text(expected["a", 0][cut:])


def test_what_wrong_guesses_left_is_in_no_prefix_that_is_used_again(
    engine_with: MakeEngine,
) -> None:
    first = job("a", PROMPTS[3], max_tokens=40, ignore_eos=True, temperature=0.0)
    expected = play(engine_with(None, speculation="off"), [first])
    said = [*first.prompt, *ids(expected["a", 0]), 60, 61]
    turn = job("b", said, max_tokens=20, ignore_eos=True, temperature=0.0)
    known = play(engine_with(None, speculation="off"), [turn])
    engine = engine_with(Scripted(wrong({**expected, **known}, 9)))
    assert ids(play(engine, [first])["a", 0]) == ids(expected["a", 0])
    assert ids(play(engine, [turn])["b", 0]) == ids(known["b", 0])


def test_guesses_take_no_memory_of_their_own(engine_with: MakeEngine) -> None:
    def one() -> Job:
        return job("a", PROMPTS[3], max_tokens=120, ignore_eos=True, temperature=0.0)

    def bytes_by_length(engine: BatchEngine) -> dict[int, int]:
        """Of keys and values, by tokens given."""
        engine.add(one())
        given, found = 0, dict[int, int]()
        while engine.active:
            given += len(engine.step())
            found[given] = int(engine.report["kv_bytes"])
        return found

    plain_bytes = bytes_by_length(engine_with(None, speculation="off"))
    expected = play(engine_with(None, speculation="off"), [one()])
    for length, size in bytes_by_length(engine_with(Scripted(right(expected, 15)))).items():
        assert size <= plain_bytes[length], length


def test_a_text_that_repeats_itself_is_guessed_right_and_takes_fewer_passes(engine_with: MakeEngine) -> None:
    def one() -> Job:
        return job("a", PROMPTS[0], max_tokens=80, ignore_eos=True, temperature=0.0, logit_bias={40: 50.0})

    expected = play(engine_with(None, speculation="off"), [one()])
    engine = engine_with(Speculator(lambda: WidthCosts(1.0, 0.01)))
    assert plain(play(engine, [one()])).keys() == plain(expected).keys()
    assert int(engine.report["accepted_tokens"]) > 40
    assert int(engine.report["verify_passes"]) < 30


def test_deltas_tell_how_many_tokens_of_the_prediction_were_right(engine_with: MakeEngine) -> None:
    def one(prediction: list[int]) -> Job:
        return job(
            "a", PROMPTS[1], max_tokens=20, ignore_eos=True, temperature=1.0, seed=4, prediction=prediction
        )

    def counted(prediction: list[int]) -> tuple[int, int]:
        deltas = play(engine_with(Speculator(lambda: WidthCosts(1.0, 0.01))), [one(prediction)])["a", 0]
        told = [delta.predicted for delta in deltas if delta.predicted]
        return sum(each.accepted for each in told), sum(each.rejected for each in told)

    said = ids(play(engine_with(None, speculation="off"), [one([])])["a", 0])
    accepted, rejected = counted(said)
    assert (accepted >= 15, rejected) == (True, 0)
    accepted, rejected = counted([*said[:6], *[(id + 1) % 250 for id in said[6:]]])
    assert 0 < accepted <= 6
    assert rejected > 0
    assert counted([]) == (0, 0)


def test_a_request_may_want_no_guesses(engine_with: MakeEngine) -> None:
    engine = engine_with(Speculator(lambda: WidthCosts(1.0, 0.01)))
    one = job(
        "a",
        PROMPTS[0],
        max_tokens=80,
        ignore_eos=True,
        temperature=0.0,
        logit_bias={40: 50.0},
        speculates=False,
    )
    play(engine, [one])
    assert not engine.report.get("drafted_tokens")


@pytest.mark.parametrize("kind", ["sliding", "recurrent"])
def test_models_whose_caches_cannot_be_taken_back_verify_nothing(
    tmp_path_factory: pytest.TempPathFactory, kind: Kind
) -> None:
    loaded = loaded_tiny(tmp_path_factory, kind)
    expected = play(engine_of(loaded, EngineLimits(speculation="off")), matrix()[:4])
    engine = engine_of(loaded, EngineLimits(speculation="on"), speculator=Scripted(right(expected, 5)))
    assert plain(play(engine, matrix()[:4])) == plain(expected)
    assert engine.report["speculation"] == "off"


def test_by_itself_guessing_is_on_only_where_a_sequence_has_the_same_bits_in_any_batch(
    loaded: LoadedModel,
) -> None:
    limits = EngineLimits()
    assert (
        engine_of(loaded, limits, findings=EngineFindings(invariance="exact")).report["speculation"] == "on"
    )
    assert (
        engine_of(loaded, limits, findings=EngineFindings(invariance="rounding")).report["speculation"]
        == "off"
    )
    on = EngineLimits(speculation="on")
    assert engine_of(loaded, on, findings=EngineFindings(invariance="rounding")).report["speculation"] == "on"
    off = EngineLimits(speculation="off")
    assert engine_of(loaded, off, findings=EngineFindings(invariance="exact")).report["speculation"] == "off"
